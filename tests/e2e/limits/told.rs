//! What is told of limits: to the caller, to the records, to people and to Prometheus.

use std::net::SocketAddr;

use agentguard_tests::{
    audit,
    daemon::Daemon,
    judge::{Call, Judge, Question},
    network::Zone,
    world::PORT,
};

use super::policy;
use crate::scene::Scene;

const FIVE: &str = "connections = { rate = \"1/hour\", burst = 5 }";

fn ask(scene: &Scene, judge: &mut Judge, call: Call, count: usize) -> Vec<i32> {
    (0..count)
        .map(|_| {
            let remote = SocketAddr::new(scene.target(Zone::Allowed), PORT);
            judge.put(&[Question {
                call,
                serial: 0,
                remote,
                local_port: 0,
            }])[0]
        })
        .collect()
}

#[test]
fn a_window_of_refusals_is_one_record_with_its_count() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy::identity("bot", FIVE));
    let mut judge = scene.judge();
    let answers = ask(&scene, &mut judge, Call::UdpConnect, 105);
    assert_eq!(answers[..5], [0; 5]);
    assert_eq!(answers[5..], [libc::EAGAIN; 100]);
    let record = daemon.events().wait_for("the window", |event| {
        event["activity_id"] == 6 && audit::identity(event) == "bot"
    });
    assert_eq!(record["class_uid"], 4001);
    assert_eq!(record["count"], 100);
    assert_eq!(record["disposition"], "Blocked");
    assert_eq!(audit::own(&record, "limit"), "connections");
    assert_eq!(audit::own(&record, "configured"), "1/hour burst 5");
    assert_eq!(audit::own(&record, "verdict"), "deny");
    // Besides, the first one is told of as any refusal is.
    let events = daemon.events().read();
    let told: Vec<_> = events
        .iter()
        .filter(|event| audit::own(event, "reason") == "rate-limit")
        .collect();
    assert!((1..=2).contains(&told.len()), "{told:?}");
    assert_eq!(told[0]["status_code"], "EAGAIN");
    assert_eq!(daemon.counter("bot", "counters", "denied"), 100);
}

#[test]
fn tcp_is_told_to_try_again() {
    let scene = Scene::new();
    let _daemon = Daemon::start(&scene.sandbox, &policy::identity("bot", FIVE));
    let mut judge = scene.judge();
    let answers = ask(&scene, &mut judge, Call::TcpConnect, 7);
    assert_eq!(answers, [0, 0, 0, 0, 0, libc::EAGAIN, libc::EAGAIN]);
}

/// Either the limit or the whole identity can be there to be watched only.
#[test]
fn what_is_only_recorded_passes() {
    for (limits, mode) in [
        (format!("{FIVE}\non-limit = \"audit\""), "enforce"),
        (FIVE.to_owned(), "audit"),
    ] {
        let scene = Scene::new();
        let text = policy::identity("bot", &limits) + &format!("mode = \"{mode}\"\n");
        // The key belongs to the identity, whose table is written last.
        let text = text.replace(
            &format!("match = [{{ cgroup = \"/bot\" }}]\nmode = \"{mode}\"\n"),
            &format!("mode = \"{mode}\"\nmatch = [{{ cgroup = \"/bot\" }}]\n"),
        );
        let daemon = Daemon::start(&scene.sandbox, &text);
        let mut judge = scene.judge();
        assert_eq!(
            ask(&scene, &mut judge, Call::UdpConnect, 10),
            [0; 10],
            "{mode}"
        );
        let told = daemon.events().wait_for("the first one over it", |event| {
            audit::own(event, "reason") == "rate-limit"
        });
        assert_eq!(audit::own(&told, "verdict"), "would-deny");
        let window = daemon
            .events()
            .wait_for("the window", |event| event["activity_id"] == 6);
        assert_eq!(window["count"], 5);
        assert_eq!(audit::own(&window, "verdict"), "would-deny");
        assert_eq!(daemon.counter("bot", "counters", "denied"), 0);
    }
}

#[test]
fn people_see_what_is_left() {
    let scene = Scene::new();
    let daemon = Daemon::start(
        &scene.sandbox,
        &policy::identity(
            "bot",
            &format!("{FIVE}\nconcurrent = 9\negress = \"10Mbit/s\""),
        ),
    );
    let mut judge = scene.judge();
    assert_eq!(ask(&scene, &mut judge, Call::UdpConnect, 2), [0; 2]);
    let limits = daemon.json(&["limits", "--json"]);
    let limits = limits.as_array().expect("a list");
    let kinds: Vec<_> = limits.iter().map(|limit| limit["limit"].clone()).collect();
    assert_eq!(kinds, ["connections", "concurrent", "egress"]);
    let first = &limits[0];
    assert_eq!(first["configured"], "1/hour burst 5");
    assert_eq!(
        [&first["used"], &first["most"], &first["headroom"]],
        [2, 5, 3]
    );
    let output = daemon.cli(&["limits", "--identity", "bot"]);
    let text = String::from_utf8(output.stdout).expect("it is text");
    assert!(text.contains("connections  1/hour burst 5"), "{text}");
    assert!(text.contains("2 of 5"), "{text}");
    let output = daemon.cli(&["limits", "--identity", "nobody"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "nothing is limited\n"
    );
}
