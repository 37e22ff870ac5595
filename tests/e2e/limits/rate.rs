//! The rate of new flows.

use std::{
    net::SocketAddr,
    process::{Child, Command},
    time::Duration,
};

use agentguard_tests::{
    agent::probe_path,
    audit,
    cgroup::Cgroup,
    daemon::Daemon,
    flood::Flood,
    judge::{Judge, Question},
    network::Zone,
    sandbox::Sandbox,
    world::PORT,
};

use super::policy;
use crate::scene::Scene;

const TIME: Duration = Duration::from_secs(10);
const THREADS: [u32; 3] = [1, 8, 64];
/// How many times what a limit allows is offered.
const OFFER: u32 = 10;
/// How much of what it allows must have been at least, in percent, where ten times that is more than a
/// machine may make of calls: few make a million a second from one thread, and a busy one makes 130,000.
const LEAST_OFFER_PERCENT: u64 = 110;
/// How often it is tried to offer so much, on a machine that has other things to do.
const TRIES: usize = 5;

fn flood(sandbox: &Sandbox, cgroup: &Cgroup, threads: u32, rate: u32, to: SocketAddr) -> Child {
    let mut command = Command::new(probe_path());
    command
        .arg("flood")
        .arg(TIME.as_secs().to_string())
        .args([threads, rate].map(|number| number.to_string()))
        .arg(to.to_string());
    sandbox.agent(cgroup).spawn(command)
}

fn end(child: Child) -> Flood {
    let output = child.wait_with_output().expect("a flood ends");
    serde_json::from_slice(&output.stdout).expect("a flood says what became of it")
}

/// What a limit allows while the flood lasts.
fn allowed(flood: &Flood, rate: u32, burst: u32) -> u64 {
    let nanoseconds = u128::from(flood.time_ns) * u128::from(rate);
    u64::try_from(nanoseconds / 1_000_000_000).expect("a small count") + u64::from(burst)
}

/// Whether enough was asked for to say something of the limit.
fn presses(flood: &Flood, rate: u32, burst: u32) -> bool {
    flood.asked * 100 >= allowed(flood, rate, burst) * LEAST_OFFER_PERCENT
}

/// Never more passes than burst and rate allow, and hardly less than an exact limiter had let pass of
/// what was asked for.
fn assert_exact(what: &str, flood: &Flood, rate: u32, burst: u32, least_percent: u64) {
    let allowed = allowed(flood, rate, burst);
    let exact = flood.passed_by_exact(rate, burst);
    let (asked, passed) = (flood.asked, flood.passed);
    assert!(
        presses(flood, rate, burst),
        "{what}: {asked} asked, too few to press on a limit that allows {allowed}"
    );
    assert_eq!(asked, passed + flood.limited, "{what}");
    assert!(
        passed <= allowed,
        "{what}: {passed} passed, and {allowed} are allowed"
    );
    assert!(
        passed + 1 >= exact * least_percent / 100,
        "{what}: {passed} passed, and {exact} should have"
    );
}

#[test]
fn what_passes_is_burst_and_rate_whoever_contends() {
    const RATES: [u32; 3] = [10, 100, 5_000];
    let sandbox = Sandbox::new();
    let cases = RATES.map(|rate| THREADS.map(|threads| (rate, threads)));
    let cases: Vec<(u32, u32, String)> = cases
        .into_iter()
        .flatten()
        .map(|(rate, threads)| (rate, threads, format!("r{rate}-t{threads}")))
        .collect();
    let cgroups: Vec<Cgroup> = cases
        .iter()
        .map(|(_, _, name)| sandbox.cgroup(name))
        .collect();
    let burst = |rate: u32| rate / 2;
    let text: String = cases
        .iter()
        .map(|(rate, _, name)| {
            let burst = burst(*rate);
            let limits = format!("connections = {{ rate = \"{rate}/s\", burst = {burst} }}");
            policy::identity(name, &limits)
        })
        .collect();
    let daemon = Daemon::start(&sandbox, &text);
    let to = SocketAddr::new(
        sandbox
            .network
            .fresh(agentguard_tests::network::Family::V4, Zone::Allowed),
        PORT,
    );
    let floods: Vec<Child> = cases
        .iter()
        .zip(&cgroups)
        .map(|((rate, threads, _), cgroup)| flood(&sandbox, cgroup, *threads, rate * OFFER, to))
        .collect();
    for ((rate, threads, name), child) in cases.iter().zip(floods) {
        let flood = end(child);
        let what = format!("{rate}/s from {threads} threads");
        assert!(
            flood.asked >= u64::from(*rate) * TIME.as_secs() * u64::from(OFFER) / 2,
            "{what}: too little was offered: {} asked",
            flood.asked
        );
        assert_exact(&what, &flood, *rate, burst(*rate), 99);
        // The kernel's own count, and what people see of it.
        assert_eq!(
            daemon.counter(name, "counters", "denied"),
            flood.limited,
            "{what}"
        );
        assert_eq!(
            daemon.counter(name, "counters", "allowed"),
            flood.passed,
            "{what}"
        );
        assert_eq!(daemon.limit(name, "connections")["refused"], flood.limited);
    }
}

#[test]
fn a_hundred_thousand_a_second_pass_and_no_more() {
    const RATE: u32 = 100_000;
    const BURST: u32 = 10_000;
    let sandbox = Sandbox::new();
    let names = THREADS.map(|threads| format!("t{threads}"));
    let cgroups = names.each_ref().map(|name| sandbox.cgroup(name));
    let limits = format!("connections = {{ rate = \"{RATE}/s\", burst = {BURST} }}");
    let text: String = names
        .iter()
        .map(|name| policy::identity(name, &limits))
        .collect();
    let mut daemon = Daemon::prepare(&sandbox, &text);
    daemon.use_release();
    daemon.restart();
    let to = sandbox
        .network
        .fresh(agentguard_tests::network::Family::V4, Zone::Allowed);
    for (threads, cgroup) in THREADS.into_iter().zip(&cgroups) {
        let offer = || {
            let to = SocketAddr::new(to, PORT);
            end(flood(&sandbox, cgroup, threads, RATE * OFFER, to))
        };
        let mut floods = std::iter::repeat_with(offer).take(TRIES);
        let flood = floods
            .find(|flood| presses(flood, RATE, BURST))
            .expect("the machine makes more calls than the limit allows");
        assert_exact(&format!("{threads} threads"), &flood, RATE, BURST, 98);
    }
}

/// What one identity floods, another does not feel: its own limit, and its own events.
#[test]
fn a_flood_leaves_others_their_rate_and_their_events() {
    const ASKED: usize = 300;
    let sandbox = Sandbox::new();
    let [loud, calm] = ["loud", "calm"].map(|name| sandbox.cgroup(name));
    let text = policy::identity("loud", "connections = { rate = \"100/s\", burst = 10 }")
        + &policy::identity("calm", "connections = { rate = \"1/hour\", burst = 200 }");
    let mut daemon = Daemon::start(&sandbox, &text);
    let fresh = || {
        sandbox
            .network
            .fresh(agentguard_tests::network::Family::V4, Zone::Allowed)
    };
    let child = flood(&sandbox, &loud, 8, 500_000, SocketAddr::new(fresh(), PORT));
    let mut judge = Judge::start(&sandbox.agent(&calm));
    let mut passed = 0;
    for _ in 0..ASKED {
        let question = Question::udp_connect(SocketAddr::new(fresh(), PORT));
        let answer = judge.put(&[question])[0];
        assert!([0, libc::EAGAIN].contains(&answer), "{answer}");
        passed += u64::from(answer == 0);
        std::thread::sleep(TIME / 400);
    }
    assert_eq!(passed, 200, "the other one's flood took none of it");
    let flood = end(child);
    assert!(flood.limited > 100_000, "{flood:?}");
    assert_eq!(daemon.counter("calm", "events", "dropped"), 0);
    assert_eq!(
        daemon.counter("loud", "events", "dropped"),
        0,
        "a refusal is told of once a second"
    );
    // What is held back for its count comes at the end.
    daemon.stop();
    // Each flow that was opened, and one refusal a second at most.
    let events = daemon.events().read();
    let of_calm = |verdict: &str| -> u64 {
        let own = events.iter().filter(|event| {
            event["class_uid"] == 4001
                && event["activity_id"] != 6
                && audit::identity(event) == "calm"
                && audit::own(event, "verdict") == verdict
        });
        own.map(|event| event["count"].as_u64().expect("it has a count"))
            .sum()
    };
    assert_eq!(of_calm("allow"), 200);
    assert!((1..=11).contains(&of_calm("deny")), "{}", of_calm("deny"));
}

#[test]
fn a_reload_gives_nothing_back() {
    let scene = Scene::new();
    let limited = |rest: &str| {
        policy::identity("bot", "connections = { rate = \"1/hour\", burst = 5 }") + rest
    };
    let mut daemon = Daemon::start(&scene.sandbox, &limited(""));
    let mut judge = scene.judge();
    let mut ask = |count: usize| -> Vec<i32> {
        (0..count)
            .map(|_| {
                let to = SocketAddr::new(scene.target(Zone::Allowed), PORT);
                judge.put(&[Question::udp_connect(to)])[0]
            })
            .collect()
    };
    assert_eq!(ask(3), [0; 3]);
    daemon.reload(&limited("[zones.other]\naddresses = [\"192.0.2.1\"]\n"));
    assert_eq!(ask(4), [0, 0, libc::EAGAIN, libc::EAGAIN]);
    // Nor does another daemon, of the same pins.
    daemon.kill();
    daemon.restart();
    assert_eq!(ask(2), [libc::EAGAIN; 2]);
    // More is more at once: what was used is used.
    daemon.reload(&policy::identity(
        "bot",
        "connections = { rate = \"1/hour\", burst = 7 }",
    ));
    assert_eq!(ask(3), [0, 0, libc::EAGAIN]);
}

/// Each flow counts once: not each call, not each datagram, not each way back to a known peer.
#[test]
fn a_flow_counts_once() {
    let scene = Scene::new();
    let daemon = Daemon::start(
        &scene.sandbox,
        &policy::identity("bot", "connections = { rate = \"1/hour\", burst = 1000 }"),
    );
    let fresh = || SocketAddr::new(scene.target(Zone::Allowed), PORT);
    let peers = [fresh(), fresh(), fresh()];
    let agent = scene.sandbox.agent(&scene.cgroup);
    let used = || {
        daemon.limit("bot", "connections")["used"]
            .as_u64()
            .expect("a number")
    };
    let mut before = used();
    let mut check = |what: &str, flows: u64| {
        let now = used();
        assert_eq!(now - before, flows, "{what}");
        before = now;
    };
    for (what, flows) in [
        ("tcp", 3),
        ("udp-connect", 3),
        ("udp-send", 3),
        ("tcp-refused", 3),
    ] {
        let mut command = Command::new(probe_path());
        command
            .args(["repeat", what])
            .args(peers.map(|peer| peer.to_string()));
        let output = agent.spawn(command).wait_with_output().expect("it ends");
        assert!(output.status.success(), "{what}: {output:?}");
        check(what, flows);
    }
}
