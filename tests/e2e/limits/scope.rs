//! Limits by rule, process, cgroup and destination: each counts by itself, within bounds.

use std::net::SocketAddr;

use agentguard_tests::{
    audit,
    cgroup::Cgroup,
    daemon::Daemon,
    judge::{Judge, Question},
    network::{ALLOWED_ZONE, DENIED_ZONE, Zone},
    sandbox::Sandbox,
    world::PORT,
};

use super::policy;
use crate::scene::Scene;

const PASS: i32 = 0;
const OVER: i32 = libc::EAGAIN;

fn ask(judge: &mut Judge, targets: &[SocketAddr]) -> Vec<i32> {
    let questions: Vec<Question> = targets.iter().copied().map(Question::udp_connect).collect();
    judge.put(&questions)
}

fn limits(per: &str, burst: u32) -> String {
    format!("connections = {{ rate = \"1/hour\", burst = {burst} }}\nper = \"{per}\"")
}

#[test]
fn a_limit_of_a_rule_is_of_that_rule_alone() {
    let scene = Scene::new();
    let [allowed, denied] = [ALLOWED_ZONE[0], DENIED_ZONE[0]];
    let text = format!(
        "[[roles.bot.egress]]\naddresses = [{allowed:?}]\n\
         limits = {{ connections = {{ rate = \"1/hour\", burst = 2 }} }}\n\
         [[roles.bot.egress]]\naddresses = [{denied:?}]\n"
    ) + &policy::bare("bot");
    let daemon = Daemon::start(&scene.sandbox, &text);
    let mut judge = scene.judge();
    let mut fresh = |zone| ask(&mut judge, &[SocketAddr::new(scene.target(zone), PORT)])[0];
    for expected in [PASS, PASS, OVER, OVER] {
        assert_eq!(fresh(Zone::Allowed), expected);
        assert_eq!(fresh(Zone::Denied), PASS);
    }
    let limit = daemon.limit("bot", "connections");
    assert_eq!(limit["rule"], "bot.egress[0]");
    assert_eq!(limit["refused"], 2);
    let told = daemon.events().wait_for("the refusal", |event| {
        audit::own(event, "reason") == "rate-limit"
    });
    assert_eq!(told["firewall_rule"]["name"], "bot.egress[0]");
    assert_eq!(told["status_code"], "EAGAIN");
}

#[test]
fn rule_and_identity_both_have_a_say_and_the_one_gives_back_what_the_other_refuses() {
    let scene = Scene::new();
    let text = "[roles.bot.limits]\nconnections = { rate = \"1/hour\", burst = 3 }\n\
                [[roles.bot.egress]]\nzones = [\"any\"]\nports = [\"1/udp\"]\n\
                limits = { connections = { rate = \"1/hour\", burst = 1 } }\n\
                [[roles.bot.egress]]\nzones = [\"any\"]\nports = [\"2/udp\"]\n"
        .to_owned()
        + &policy::bare("bot");
    let _daemon = Daemon::start(&scene.sandbox, &text);
    let mut judge = scene.judge();
    let mut to = |port| {
        ask(
            &mut judge,
            &[SocketAddr::new(scene.target(Zone::Allowed), port)],
        )[0]
    };
    // One flow by the first rule; what that rule refuses takes nothing from the identity.
    assert_eq!([to(1), to(1), to(1)], [PASS, OVER, OVER]);
    assert_eq!([to(2), to(2), to(2)], [PASS, PASS, OVER]);
}

#[test]
fn each_process_has_its_own() {
    let scene = Scene::new();
    let daemon = Daemon::start(
        &scene.sandbox,
        &policy::identity("bot", &limits("process", 2)),
    );
    let target = || SocketAddr::new(scene.target(Zone::Allowed), PORT);
    let mut judges = [scene.judge(), scene.judge()];
    for judge in &mut judges {
        let answers = ask(judge, &[target(), target(), target()]);
        assert_eq!(answers, [PASS, PASS, OVER]);
    }
    assert_eq!(daemon.limit("bot", "connections")["counted-apart"], 2);
    assert_eq!(daemon.limit("bot", "connections")["headroom"], 0);
}

#[test]
fn each_cgroup_has_its_own() {
    let scene = Scene::new();
    let cgroups: [Cgroup; 2] = ["one", "two"].map(|name| scene.cgroup.child(name));
    let daemon = Daemon::start(
        &scene.sandbox,
        &policy::identity("bot", &limits("cgroup", 2)),
    );
    let target = || SocketAddr::new(scene.target(Zone::Allowed), PORT);
    for cgroup in &cgroups {
        // Two processes of one cgroup share.
        let mut judges = [0, 1].map(|_| Judge::start(&scene.sandbox.agent(cgroup)));
        assert_eq!(ask(&mut judges[0], &[target()]), [PASS]);
        assert_eq!(ask(&mut judges[1], &[target(), target()]), [PASS, OVER]);
    }
    assert_eq!(daemon.limit("bot", "connections")["counted-apart"], 2);
}

#[test]
fn each_destination_has_its_own_beside_that_of_the_identity() {
    let scene = Scene::new();
    let text = "[roles.all]\n[roles.all.limits]\nconnections = { rate = \"1/hour\", burst = 5 }\n"
        .to_owned()
        + &policy::identity("bot", &limits("destination", 2))
            .replace("roles = [\"bot\"]", "roles = [\"bot\", \"all\"]");
    let daemon = Daemon::start(&scene.sandbox, &text);
    let mut judge = scene.judge();
    let targets = [1, 2, 3].map(|_| scene.target(Zone::Allowed));
    let mut to = |at: usize, port| ask(&mut judge, &[SocketAddr::new(targets[at], port)])[0];
    assert_eq!([to(0, 1), to(0, 2), to(0, 3)], [PASS, PASS, OVER]);
    assert_eq!([to(1, 1), to(1, 2), to(1, 3)], [PASS, PASS, OVER]);
    assert_eq!(
        [to(2, 1), to(2, 2)],
        [PASS, OVER],
        "the identity has had its five"
    );
    assert_eq!(daemon.limit("bot", "connections")["used"], 5);
}

/// Who makes the kernel remember very many does so at his own cost.
#[test]
fn what_is_full_refuses_its_own_identity_alone() {
    /// `MAX_BUCKETS_OF_ONE`.
    const MOST: usize = 8_192;
    let sandbox = Sandbox::new();
    let [loud, calm] = ["loud", "calm"].map(|name| sandbox.cgroup(name));
    let text = policy::identity("loud", &limits("destination", 1))
        + &policy::identity("calm", &limits("destination", 1));
    let mut daemon = Daemon::prepare(&sandbox, &text);
    daemon.use_release();
    daemon.restart();
    let address = |number: usize| {
        let number = u32::try_from(number).expect("it is small");
        SocketAddr::new(std::net::Ipv4Addr::from(0x0a01_0000 + number).into(), PORT)
    };
    let mut judge = Judge::start(&sandbox.agent(&loud));
    let targets: Vec<SocketAddr> = (0..MOST + 10).map(address).collect();
    let mut answers = Vec::new();
    for batch in targets.chunks(512) {
        answers.extend(ask(&mut judge, batch));
    }
    let refused = answers.iter().position(|&answer| answer != PASS);
    assert_eq!(refused, Some(MOST), "all that can be told apart");
    assert_eq!(answers[MOST..], [OVER; 10]);
    // Nobody is forgotten for it, and nobody else pays.
    assert_eq!(ask(&mut judge, &[address(0), address(MOST - 1)]), [OVER; 2]);
    let mut other = Judge::start(&sandbox.agent(&calm));
    assert_eq!(ask(&mut other, &[address(0), address(MOST)]), [PASS; 2]);
    daemon.events().wait_for("the refusal", |event| {
        audit::identity(event) == "loud" && audit::own(event, "reason") == "limit-entries"
    });
    assert_eq!(daemon.limit("loud", "connections")["counted-apart"], MOST);
}

/// What is as good as new is forgotten, so that there is room again.
#[test]
fn what_is_idle_is_forgotten() {
    let scene = Scene::new();
    let text = policy::identity(
        "bot",
        "connections = { rate = \"100/s\", burst = 1 }\nper = \"destination\"",
    );
    let daemon = Daemon::start(&scene.sandbox, &text);
    let mut judge = scene.judge();
    let targets: Vec<SocketAddr> = (0..100)
        .map(|_| SocketAddr::new(scene.target(Zone::Allowed), PORT))
        .collect();
    assert_eq!(ask(&mut judge, &targets), [PASS; 100]);
    let apart = || daemon.limit("bot", "connections")["counted-apart"].as_u64();
    assert_eq!(apart(), Some(100));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while apart() != Some(0) {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?} are left",
            apart()
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(ask(&mut judge, &targets), [PASS; 100]);
}
