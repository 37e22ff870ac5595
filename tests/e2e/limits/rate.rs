//! The rate of new flows.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::{Child, Command},
    thread,
    time::Duration,
};

use agentguard_tests::{
    agent::probe_path,
    audit,
    daemon::Daemon,
    flood::{self, Flood},
    judge::{Judge, Question},
    network::{Family, Zone},
    sandbox::Sandbox,
    world::PORT,
};

use super::policy;
use crate::scene::Scene;

const TIME: Duration = Duration::from_secs(10);
const THREADS: [u32; 3] = [1, 8, 64];
/// How many times what a limit allows is offered.
const OFFER: u32 = 10;
/// How often it is tried to offer enough, on a machine that has other things to do.
const TRIES: usize = 5;

/// Floods until enough was asked for to say something of the limit, and returns what each flood was told.
fn press(start: impl Fn() -> Child, is_enough: impl Fn(&Flood) -> bool) -> Vec<Flood> {
    let mut floods = Vec::new();
    loop {
        floods.push(flood::end(start()));
        if floods.last().is_some_and(&is_enough) {
            return floods;
        }
        assert!(
            floods.len() < TRIES,
            "too little was offered: {:?} asked",
            floods.iter().map(|flood| flood.asked).collect::<Vec<_>>()
        );
        // Each begins with a full bucket.
        thread::sleep(Duration::from_secs(1));
    }
}

/// What a limit allows while the flood lasts.
fn allowed(flood: &Flood, rate: u32, burst: u32) -> u64 {
    let nanoseconds = u128::from(flood.time_ns) * u128::from(rate);
    u64::try_from(nanoseconds / 1_000_000_000).expect("a small count") + u64::from(burst)
}

/// Never more passes than burst and rate allow, and hardly less than an exact limiter had let pass of
/// what was asked for.
fn assert_exact(what: &str, flood: &Flood, rate: u32, burst: u32, least_percent: u64) {
    let allowed = allowed(flood, rate, burst);
    let exact = flood.passed_by_exact(rate, burst);
    let (asked, passed) = (flood.asked, flood.passed);
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
    // How many floods there are at a time: those that the machine hardly feels, or one.
    const RATES: [(u32, usize); 3] = [(10, 3), (100, 3), (5_000, 1)];
    let sandbox = Sandbox::new();
    let name = |rate: u32, threads: u32| format!("r{rate}-t{threads}");
    let burst = |rate: u32| rate / 2;
    let mut text = String::new();
    let mut cgroups = HashMap::new();
    for (rate, _) in RATES {
        let limits = format!(
            "connections = {{ rate = \"{rate}/s\", burst = {} }}",
            burst(rate)
        );
        for threads in THREADS {
            let name = name(rate, threads);
            text += &policy::identity(&name, &limits);
            cgroups.insert(name.clone(), sandbox.cgroup(name));
        }
    }
    let daemon = Daemon::start(&sandbox, &text);
    let to = sandbox.network.fresh(Family::V4, Zone::Allowed);
    let check = |rate: u32, threads: u32| {
        let name = name(rate, threads);
        let agent = sandbox.agent(&cgroups[&name]);
        let start = || flood::start(&agent, threads, rate * OFFER, TIME, to);
        let least_asked = u64::from(rate * OFFER / 2) * TIME.as_secs();
        let floods = press(start, |flood| flood.asked >= least_asked);
        for flood in &floods {
            assert_exact(&name, flood, rate, burst(rate), 99);
        }
        // The kernel's own count, and what people see of it.
        let all = floods
            .iter()
            .fold(Flood::default(), |sum, flood| sum.joined_with(flood));
        let counter = |key| daemon.counter(&name, "counters", key);
        assert_eq!(counter("denied"), all.limited, "{name}");
        assert_eq!(counter("allowed"), all.passed, "{name}");
        assert_eq!(daemon.limit(&name, "connections")["refused"], all.limited);
    };
    let _turn = flood::take_turn();
    for (rate, at_a_time) in RATES {
        for threads in THREADS.chunks(at_a_time) {
            thread::scope(|scope| {
                for threads in threads {
                    scope.spawn(|| check(rate, *threads));
                }
            });
        }
    }
}

#[test]
fn a_hundred_thousand_a_second_pass_and_no_more() {
    const RATE: u32 = 100_000;
    const BURST: u32 = 10_000;
    // How much of what is allowed must have been asked for, in percent, where ten times that is more than
    // a machine may make of calls: few make a million a second from one thread, and a busy one makes 130,000.
    const LEAST_OFFER_PERCENT: u64 = 110;
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
    let to = sandbox.network.fresh(Family::V4, Zone::Allowed);
    let presses =
        |flood: &Flood| flood.asked * 100 >= allowed(flood, RATE, BURST) * LEAST_OFFER_PERCENT;
    let _turn = flood::take_turn();
    for (threads, cgroup) in THREADS.into_iter().zip(&cgroups) {
        let start = || flood::start(&sandbox.agent(cgroup), threads, RATE * OFFER, TIME, to);
        for flood in press(start, presses) {
            assert_exact(&format!("{threads} threads"), &flood, RATE, BURST, 98);
        }
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
    let fresh = || sandbox.network.fresh(Family::V4, Zone::Allowed);
    let turn = flood::take_turn();
    let child = flood::start(&sandbox.agent(&loud), 8, 500_000, TIME, fresh());
    let mut judge = Judge::start(&sandbox.agent(&calm));
    let mut passed = 0;
    for _ in 0..ASKED {
        let question = Question::udp_connect(SocketAddr::new(fresh(), PORT));
        let answer = judge.put(&[question])[0];
        assert!([0, libc::EAGAIN].contains(&answer), "{answer}");
        passed += u64::from(answer == 0);
        thread::sleep(TIME / 400);
    }
    assert_eq!(passed, 200, "the other one's flood took none of it");
    let flood = flood::end(child);
    drop(turn);
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
