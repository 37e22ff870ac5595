//! What is kept of what happened: all of it, or a record of what is missing.

use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    cgroup::Cgroup,
    daemon::Daemon,
    flood,
    judge::{Judge, Question},
    network::{Family, Zone},
    sandbox::Sandbox,
    world::PORT,
};
use serde_json::Value;

use crate::scene::{Scene, policy};

/// An identity of the cgroup `/NAME` that may reach nothing but the allowed zone.
fn identity(name: &str) -> String {
    policy("")
        .replace("identities.bot", &format!("identities.{name}"))
        .replace("/bot", &format!("/{name}"))
        .replace("roles.r]", &format!("roles.{name}]"))
        .replace("roles.r.", &format!("roles.{name}."))
        .replace("[\"r\"]", &format!("[\"{name}\"]"))
}

/// Starts a flood of flows that are refused.
fn flood(sandbox: &Sandbox, cgroup: &Cgroup, rate: u32, time: Duration) -> Child {
    let to = sandbox.network.fresh(Family::V4, Zone::Denied);
    flood::start(&sandbox.agent(cgroup), 4, rate, time, to)
}

/// The one number that a question to the history is answered with.
fn number(daemon: &Daemon, sql: &str) -> u64 {
    let rows = daemon.json(&["query", "--output", "json", sql]);
    let row = rows[0].as_object().expect("a row");
    let value = row.values().next().expect("a column");
    value.as_u64().unwrap_or(0)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{what} did not come"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn verify(daemon: &Daemon) -> Value {
    let report = daemon.json(&["audit", "verify", "--json"]);
    assert_eq!(report["findings"], serde_json::json!([]), "{report}");
    report
}

/// One identity asks for a hundred thousand flows a second that it may not have, for ten seconds. What
/// another does meanwhile is all told, and of the flood the exact total.
#[test]
fn a_flood_hides_nothing_of_others_and_is_counted_to_the_last() {
    const MARKED: u16 = 1_000;
    let sandbox = Sandbox::new();
    let [loud, calm] = ["loud", "calm"].map(|name| sandbox.cgroup(name));
    let mut daemon = Daemon::prepare(&sandbox, &(identity("loud") + &identity("calm")));
    daemon.use_release();
    daemon.restart();
    let turn = flood::take_turn();
    let child = flood(&sandbox, &loud, 100_000, Duration::from_secs(10));
    let mut judge = Judge::start(&sandbox.agent(&calm));
    let to = sandbox.network.fresh(Family::V4, Zone::Allowed);
    for marked in 0..MARKED {
        let question = Question::udp_connect(SocketAddr::new(to, 20_000 + marked));
        assert_eq!(judge.put(&[question]), [0]);
        thread::sleep(Duration::from_millis(9));
    }
    let flood = flood::end(child);
    drop(turn);
    assert!(flood.denied > 500_000, "{flood:?}");
    assert_eq!(flood.denied, flood.asked, "{flood:?}");
    let count = |identity, key| daemon.counter(identity, "events", key);
    wait_until("the end of the ring", || count("loud", "unread") == 0);
    assert_eq!(daemon.counter("loud", "counters", "denied"), flood.denied);
    assert_eq!(
        count("calm", "dropped"),
        0,
        "the flood took none of its room"
    );
    // What is dropped last on a CPU is missed when the next event of it comes.
    let dropped = count("loud", "dropped");
    let more = Cell::new(0);
    wait_until("what numbers say", || {
        let denied = SocketAddr::new(sandbox.network.fresh(Family::V4, Zone::Denied), PORT);
        Judge::start(&sandbox.agent(&loud)).ask([denied]);
        more.set(more.get() + 1);
        let missing = daemon.status()["events-missing"].as_u64();
        assert!(missing <= Some(dropped), "{missing:?} of {dropped}");
        missing == Some(dropped)
    });
    daemon.stop();

    let marked = number(
        &daemon,
        "SELECT count(DISTINCT port) FROM flows WHERE identity = 'calm' AND port BETWEEN 20000 AND 20999",
    );
    assert_eq!(marked, u64::from(MARKED), "each marked flow is told");
    let told = number(
        &daemon,
        "SELECT sum(count) FROM denials WHERE identity = 'loud'",
    );
    let lost = number(
        &daemon,
        "SELECT sum(count) FROM events WHERE event = 'lost' AND identity = 'loud'",
    );
    assert_eq!(
        told + lost,
        flood.denied + more.get(),
        "{told} told, {lost} lost"
    );
    assert!(verify(&daemon)["records"].as_u64() > Some(1_000));
}

/// The daemon is killed again and again while flows are refused. What is missing afterwards is exactly
/// what records say is missing, and what the file had before the history has.
#[test]
fn what_a_killed_daemon_had_not_written_is_told_by_the_next() {
    const KILLS: u32 = 200;
    let scene = Scene::new();
    let mut daemon = Daemon::prepare(&scene.sandbox, &policy(""));
    daemon.use_release();
    daemon.restart();
    let child = flood(
        &scene.sandbox,
        &scene.cgroup,
        2_000,
        Duration::from_secs(2) * KILLS,
    );
    let begun = Instant::now();
    for kill in 0..KILLS {
        // From the moment that it answers to a while later; each time another one.
        thread::sleep(Duration::from_millis(u64::from(kill * 37 % 211)));
        daemon.kill();
        daemon.restart();
    }
    println!("{KILLS} kills in {:?}", begun.elapsed());
    let flood = stop(child, &daemon);
    wait_until("the end of the ring", || {
        daemon.counter("bot", "events", "unread") == 0
    });
    daemon.stop();
    let report = verify(&daemon);
    assert!(report["checkpoints"].as_u64() > Some(0));

    let told = number(&daemon, "SELECT sum(count) FROM denials");
    let lost = number(
        &daemon,
        "SELECT sum(count) FROM events WHERE event = 'lost'",
    );
    assert_eq!(told + lost, flood, "{told} told, {lost} lost");
    assert!(lost > 0, "no kill hit anything");

    let kept: Vec<u64> = daemon
        .json(&["query", "--output", "json", "SELECT sequence FROM events"])
        .as_array()
        .expect("rows")
        .iter()
        .filter_map(|row| row["sequence"].as_u64())
        .collect();
    assert!(kept.iter().copied().eq(1..=kept.len() as u64));
    // The file got nothing that the history does not have, and all that it has; some of it twice.
    let text = fs::read_to_string(daemon.events().path()).expect("read the events");
    let mut seen = vec![None; kept.len()];
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("a line is a record");
        let sequence = event["metadata"]["sequence"].as_u64().expect("a number");
        let place = &mut seen[usize::try_from(sequence).expect("small") - 1];
        assert!(
            place.is_none_or(|before| before == line),
            "record {sequence} came twice, and differs"
        );
        *place = Some(line);
    }
    let missing = seen.iter().filter(|line| line.is_none()).count();
    assert_eq!(missing, 0, "records that the file never got");
}

/// Ends a flood, and says how many flows it asked for: what the kernel refused.
fn stop(mut child: Child, daemon: &Daemon) -> u64 {
    child.kill().expect("a flood runs");
    child.wait().expect("a flood ends");
    daemon.counter("bot", "counters", "denied")
}

#[test]
fn nobody_may_open_a_flow_when_that_could_not_be_told() {
    let scene = Scene::new();
    let mut daemon = Daemon::prepare(&scene.sandbox, &policy(""));
    // A sink that takes nothing.
    let nowhere = scene.sandbox.files().join("nowhere");
    daemon.add_settings(&format!(
        "[sinks.stuck.file]\npath = {:?}\n\
         [history]\nmax-size = \"1MiB\"\non-full = \"refuse-new-flows\"\n",
        nowhere.join("events.jsonl")
    ));
    daemon.restart();
    fs::remove_dir_all(&nowhere).expect("its directory was made");
    fs::write(&nowhere, "").expect("something in its place");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);

    let mut judge = scene.judge();
    let target = scene.target(Zone::Allowed);
    let open = |judge: &mut Judge, port| {
        judge.put(&[Question::udp_connect(SocketAddr::new(target, port))])[0]
    };
    assert_eq!(open(&mut judge, 1), 0);
    let mut port = 1;
    let begun = Instant::now();
    while open(&mut judge, port) == 0 {
        port = port % 60_000 + 1;
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "it never filled: {}",
            daemon.status()["history"]
        );
    }
    assert_eq!(open(&mut judge, port), libc::EAGAIN);
    assert_eq!(daemon.status()["history"]["refuses-flows"], true);
    let sinks = daemon.json(&["sinks", "--json"]);
    let stuck = sinks
        .as_array()
        .expect("a list")
        .iter()
        .find(|sink| sink["name"] == "stuck");
    assert!(stuck.expect("it is there")["waiting"].as_u64() > Some(1_000));
    // A reload changes nothing of that.
    daemon.swap(&policy(""));
    assert_eq!(open(&mut judge, port), libc::EAGAIN);

    fs::remove_file(&nowhere).expect("it was there");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until("room", || {
        daemon.status()["history"]["refuses-flows"] == false
    });
    wait_until("the daemon lets flows be", || {
        open(&mut scene.judge(), 2) == 0
    });
    daemon.stop();
    verify(&daemon);
    // In the other sink: the history itself may have forgotten it.
    daemon.events().wait_for("a warning", |event| {
        event["message"]
            .as_str()
            .is_some_and(|message| message.contains("of the room of the history"))
    });
}

#[test]
fn what_happened_is_found_again() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut judge = scene.judge();
    let [allowed, denied] = [Zone::Allowed, Zone::Denied].map(|zone| scene.target(zone));
    for (to, port, count) in [(allowed, 443, 2), (denied, 8_080, 5)] {
        for _ in 0..count {
            judge.put(&[Question::udp_connect(SocketAddr::new(to, port))]);
        }
    }
    let events = |arguments: &[&str]| {
        let all: Vec<&str> = ["events"].iter().chain(arguments).copied().collect();
        let output = daemon.cli(&all);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let to = format!("{denied}:8080");
    wait_until("the refusal", || events(&["--to", &to]).contains("deny"));
    let table = events(&["--since", "1h", "--verdict", "deny", "--identity", "bot"]);
    assert!(
        table.contains(&to) && !table.contains(&allowed.to_string()),
        "{table}"
    );
    let csv = events(&["--output", "csv", "--to", ":443"]);
    assert!(csv.starts_with("sequence,time,event,identity,"), "{csv}");
    assert!(csv.contains(&format!(",{allowed},443,")), "{csv}");
    let json = events(&["-o", "json", "-n", "1"]);
    let line: Value = serde_json::from_str(json.trim()).expect("one record");
    assert!(line["metadata"]["sequence"].as_u64() > Some(1));
    assert_eq!(events(&["--until", "1h"]), "");

    let stats = daemon.json(&["stats", "--json"]);
    assert_eq!(stats["identities"][0]["name"], "bot", "{stats}");
    let denials = number(&daemon, "SELECT count(*) FROM denials WHERE port = 8080");
    assert!(denials > 0);
    for arguments in [
        &["query", "DELETE FROM events"][..],
        &["query", "SELECT nothing"],
        &["events", "--since", "yesterday"],
        &["sinks", "test", "nobody"],
    ] {
        let output = daemon.cli(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    let tested = daemon.cli(&["sinks", "test", "log"]);
    assert!(tested.status.success(), "{tested:?}");
    daemon.events().wait_for("the test record", |event| {
        event["message"] == "test of sink log"
    });
}

#[test]
fn tampering_with_what_is_kept_is_found() {
    let scene = Scene::new();
    let mut daemon = Daemon::start(&scene.sandbox, &policy(""));
    scene.refusals(&mut scene.judge());
    daemon.stop();
    verify(&daemon);
    let lines = daemon.events().text();
    let file = daemon.events().path().to_owned();
    let check = |text: &str| {
        fs::write(&file, text).expect("write the events");
        let output = daemon.cli(&["audit", "verify", &file.to_string_lossy()]);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    assert_eq!(check(&lines).0, Some(0));
    let altered = lines.replacen("\"verdict\":\"deny\"", "\"verdict\":\"allow\"", 1);
    assert_ne!(altered, lines);
    let (code, said) = check(&altered);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was altered"), "{said}");
    let mut fewer: Vec<&str> = lines.lines().collect();
    fewer.remove(1);
    let (code, said) = check(&(fewer.join("\n") + "\n"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("record 2 is missing"), "{said}");
    let key = daemon.cli(&["audit", "key"]);
    let key = String::from_utf8_lossy(&key.stdout).trim().to_owned();
    assert_eq!(key.len(), 64);
    let other = "00".repeat(32);
    let output = daemon.cli(&["audit", "verify", "--key", &other]);
    assert_eq!(output.status.code(), Some(1), "another key signed it");
}
