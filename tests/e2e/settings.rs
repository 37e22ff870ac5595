//! Settings, good and bad, and what a daemon does that must not start or must start with less.

use std::{
    fs,
    path::Path,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{daemon::Daemon, foreign::Exclusive, network::Zone, sandbox::Sandbox};
use nix::sys::signal::Signal;

use crate::scene::{ENFORCED, Scene, policy, spec};

/// What the daemon ends with where its settings are wrong, as `--help` says.
const BAD_SETTINGS: i32 = 78;
/// Where a daemon is in the way.
const UNAVAILABLE: i32 = 69;

/// How long a daemon may take to do what it was told by a signal.
const PATIENCE: Duration = Duration::from_secs(20);

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn bad_settings_are_told_with_place_and_mend() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::prepare(&sandbox, &policy(""));
    let file = daemon.settings_file();
    let good = fs::read_to_string(&file).expect("they were written");
    for (first, column, what, mend) in [
        (
            "state_dir = \"/x\"",
            1,
            "unknown key `state_dir`",
            "`state-dir`",
        ),
        (
            "allow-degraded = \"yes\"",
            18,
            "string \"yes\"",
            "a boolean",
        ),
        ("state-dir = [", 1, "", ""),
        ("\u{feff}{ \"json\": true }", 1, "", ""),
        (
            "sinks = { log = { file = { path = \"events\" } } }",
            35,
            "`sinks.log.file.path` is not an absolute path",
            "`/events`",
        ),
    ] {
        // Nothing else of the file may hide it, nor be hidden by it.
        let rest: String = good
            .lines()
            .filter(|line| !line.starts_with("[sinks") && !line.starts_with("path"))
            .filter(|line| !line.starts_with("state-dir"))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&file, format!("{first}\n{rest}")).expect("write the settings");
        for command in [&["daemon"][..], &["status"], &["detach"]] {
            let output = daemon.cli(command);
            let said = stderr(&output);
            assert_eq!(
                output.status.code(),
                Some(BAD_SETTINGS),
                "{command:?}: {said}"
            );
            let place = format!("{}:", file.display());
            let at = said.split_once(&place).map(|(_, rest)| rest);
            let at = at.unwrap_or_else(|| panic!("no place in {said}"));
            if what.is_empty() {
                assert!(
                    at.starts_with(|digit: char| digit.is_ascii_digit()),
                    "{said}"
                );
            } else {
                assert!(
                    at.starts_with(&format!("1:{column}\n")),
                    "1:{column} in {said}"
                );
            }
            assert!(said.contains(what), "{what:?} in {said}");
            assert!(
                said.contains("help:") && said.contains(mend),
                "{mend:?} in {said}"
            );
            assert!(!said.contains('\u{1b}'), "colours in a pipe: {said:?}");
        }
    }
    fs::remove_file(&file).expect("remove the settings");
    let output = daemon.cli(&["daemon"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(BAD_SETTINGS), "{said}");
    for wanted in [
        "cannot be read",
        "No such file",
        &file.display().to_string(),
        "--config",
    ] {
        assert!(said.contains(wanted), "{wanted:?} in {said}");
    }
}

#[test]
fn a_second_daemon_refuses_and_harms_nothing() {
    let scene = Scene::new();
    let mut daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut judge = scene.judge();
    let mut second = Daemon::prepare(&scene.sandbox, &policy(""));
    second.launch();
    let code = second.wait().code();
    let said = second.log();
    assert_eq!(code, Some(UNAVAILABLE), "{said}");
    assert!(said.contains("another daemon runs on"), "{said}");
    assert_eq!(daemon.status()["pid"], daemon.pid());
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.reload(&policy(""));
    assert_eq!(daemon.status()["generation"], 2);
}

#[test]
fn sighup_loads_the_policy_and_opens_the_events_anew() {
    let scene = Scene::new();
    let mut daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut judge = scene.judge();
    assert_eq!(scene.refusals(&mut judge), ENFORCED);

    // All that is allowed is denied too: then nothing is allowed.
    let nothing = policy("") + "[[roles.r.egress]]\nzones = [\"any\"]\ndeny = true\n";
    daemon.write_policy(&nothing);
    let events = daemon.events();
    let rotated = events.path().with_extension("1");
    fs::rename(events.path(), &rotated).expect("rotate the events");
    daemon.signal(Signal::SIGHUP);
    wait_for(|| daemon.status()["generation"] == 2);
    assert_eq!(scene.refusals(&mut judge), [true, true]);
    events.wait_for("the new policy, in the new file", |event| {
        event["class_uid"] == 3004 && event["status_id"] == 1
    });

    daemon.write_policy("[roles.r");
    daemon.signal(Signal::SIGHUP);
    wait_for(|| daemon.status()["last-rejection"].is_string());
    let status = daemon.status();
    assert_eq!(status["generation"], 2);
    let rejection = status["last-rejection"].as_str().unwrap_or_default();
    assert!(rejection.contains("test.toml:1:"), "{rejection}");
    assert_eq!(scene.refusals(&mut judge), [true, true]);

    daemon.write_policy(&policy(""));
    daemon.signal(Signal::SIGHUP);
    wait_for(|| daemon.status()["generation"] == 3);
    assert!(daemon.status()["last-rejection"].is_null());
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    assert!(!daemon.log().contains('\u{1b}'), "colours in a file");
}

#[test]
fn a_kernel_without_its_types_is_refused_in_any_case() {
    let scene = Scene::new();
    let daemon = Daemon::prepare(&scene.sandbox, &policy(""));
    daemon
        .mounts()
        .bind(Path::new("/dev/null"), Path::new("/sys/kernel/btf/vmlinux"));
    let refused = daemon.cli(&["daemon"]);
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(BAD_SETTINGS), "{said}");
    for wanted in [
        "BTF of the kernel",
        "new cgroups are not noticed",
        "allow-degraded = true",
    ] {
        assert!(said.contains(wanted), "{wanted:?} in {said}");
    }
    let doctor = daemon.cli(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "the doctor says so too");

    // No program loads without them, so that there is nothing to go on with.
    let file = daemon.settings_file();
    let settings = fs::read_to_string(&file).expect("they were written");
    fs::write(&file, format!("allow-degraded = true\n{settings}")).expect("write the settings");
    let failed = daemon.cli(&["daemon"]);
    let said = stderr(&failed);
    assert_eq!(failed.status.code(), Some(70), "{said}");
    assert!(said.contains("does not support BTF"), "{said}");
    let detached = daemon.cli(&["detach"]);
    assert_eq!(detached.stdout, b"nothing was pinned\n");
    assert_eq!(scene.refusals(&mut scene.judge()), [false, false]);
}

#[test]
fn a_hook_that_is_occupied_is_an_error_or_else_reported_and_packets_are_judged_without_it() {
    let scene = Scene::new();
    let occupant = Exclusive::connect4(scene.sandbox.cgroups.top());
    let mut daemon = Daemon::prepare(&scene.sandbox, &policy(""));
    let refused = daemon.cli(&["daemon"]);
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(70), "{said}");
    for wanted in [
        "`connect4`",
        "somebody else's program",
        "bpftool cgroup tree",
    ] {
        assert!(said.contains(wanted), "{wanted:?} in {said}");
    }
    // What was attached before the error is for `detach` to remove.
    assert!(daemon.cli(&["detach"]).status.success());

    let file = daemon.settings_file();
    let settings = fs::read_to_string(&file).expect("they were written");
    fs::write(&file, format!("allow-degraded = true\n{settings}")).expect("write the settings");
    daemon.restart();
    let status = daemon.status();
    let degraded = status["degraded"].as_array().expect("a list");
    assert_eq!(degraded.len(), 1, "{degraded:?}");
    let line = degraded[0].as_str().expect("text");
    assert!(line.starts_with("- `connect4` is not attached: "), "{line}");
    let programs = status["programs"].to_string();
    assert!(
        !programs.contains("connect4") && programs.contains("connect6"),
        "{programs}"
    );
    // The call passes, its packets do not.
    let denied = spec(scene.target(Zone::Denied), false);
    drop(scene.sandbox.agent(&scene.cgroup).run(&denied));
    assert!(!scene.marker_arrived(&denied));
    let allowed = spec(scene.target(Zone::Allowed), false);
    drop(scene.sandbox.agent(&scene.cgroup).run(&allowed));
    assert!(scene.marker_arrived(&allowed));
    let mut judge = scene.judge();
    assert_eq!(
        scene.refusals(&mut judge),
        [false, false],
        "nobody asks at `connect`"
    );

    // Once the hook is free, a restart takes it.
    drop(occupant);
    daemon.stop();
    daemon.restart();
    assert_eq!(daemon.status()["degraded"], serde_json::json!([]));
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
}

fn wait_for(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it did not happen in time");
        thread::sleep(Duration::from_millis(20));
    }
}
