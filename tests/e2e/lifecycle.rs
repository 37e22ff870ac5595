//! Policies come and go, flows and daemons end: what must hold meanwhile.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agentguard_tests::{audit, daemon::Daemon, judge::Judge, network::Zone, world::PORT};

use crate::scene::{ENFORCED, Scene, policy};

/// The identity of [`policy`] with a role that allows nothing.
fn revoked() -> String {
    policy("").replace("[[roles.r.egress]]", "[[roles.other.egress]]") + "[roles.other]\n"
}

#[test]
fn a_bad_policy_leaves_the_last_good_one_in_force() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut judge = scene.judge();
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.write_policy(&policy("").replace("roles = [\"r\"]", "roles = [\"s\"]"));
    let output = daemon.cli(&["reload", "--wait"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let place = format!("{}:9:", daemon.policy_file().display());
    assert!(
        said.contains(&place) && said.contains("help:"),
        "{place} in {said}"
    );
    assert_eq!(daemon.status()["generation"], 1);
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.events().wait_for("a refused policy", |event| {
        event["class_uid"] == 3004 && event["status_id"] == 2
    });
}

#[test]
fn an_established_flow_ends_with_its_right() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy(""));
    let (mut kept, kept_spec) = scene.connect();
    kept.resume();
    kept.wait_ready();
    assert!(
        scene.marker_arrived(&kept_spec),
        "the flow works while it may"
    );

    let (mut cut, cut_spec) = scene.connect();
    daemon.reload(&revoked());
    cut.resume();
    cut.wait_ready();
    assert!(
        !scene.marker_arrived(&cut_spec),
        "the flow went on after its right ended"
    );
    daemon.events().wait_for("the cut flow", |event| {
        audit::own(event, "verdict") == "deny" && audit::own(event, "hook") == "egress"
    });
}

#[test]
fn an_established_flow_ends_when_its_identity_expires_with_no_daemon_alive() {
    let scene = Scene::new();
    let mut daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut judge = scene.judge();
    // What has to be done while the identity lives, once to see how long that takes here.
    let rehearsal = Instant::now();
    daemon.reload(&policy(""));
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    drop(scene.connect());
    let lifetime = Duration::from_secs(4) + 3 * rehearsal.elapsed();

    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    let end = rfc3339((now + lifetime).as_secs());
    let limited = policy("").replace(
        "roles = [\"r\"]",
        &format!("roles = [\"r\"]\nexpires = {end}"),
    );
    daemon.reload(&limited);
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    let (mut cut, cut_spec) = scene.connect();
    daemon.kill();
    thread::sleep(lifetime);
    cut.resume();
    cut.wait_ready();
    assert!(
        !scene.marker_arrived(&cut_spec),
        "the flow outlived its identity"
    );
    assert_eq!(scene.refusals(&mut judge), [true, true]);
}

/// `seconds` since 1970 as TOML has it.
fn rfc3339(seconds: u64) -> String {
    // Civil from days, for years from 1970 on: eras of 400 years, years from March.
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (date, month) = (of_year - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[test]
fn enforcement_outlives_the_daemon_until_it_is_detached() {
    let scene = Scene::new();
    let mut daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut judge = scene.judge();
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.kill();
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.restart();
    assert_eq!(
        daemon.status()["generation"],
        2,
        "the pinned generation was adopted"
    );
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    assert_eq!(
        daemon.cli(&["detach"]).status.code(),
        Some(69),
        "a daemon runs"
    );
    daemon.stop();
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    assert!(daemon.cli(&["detach"]).status.success());
    assert_eq!(scene.refusals(&mut judge), [false, false]);
}

#[test]
fn detaching_ends_enforcement_at_once_whoever_holds_the_links() {
    let scene = Scene::new();
    let mut daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut judge = scene.judge();
    daemon.stop();
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.mounts().among(|| {
        let bpffs = daemon.bpffs();
        let list = |directory: &Path| fs::read_dir(directory).expect("list pins").flatten();
        let version = list(&bpffs).next().expect("pins of one version").path();
        for pin in list(&version.join("links")) {
            let other = bpffs.join(format!("other-{}", pin.file_name().display()));
            fs::hard_link(pin.path(), other).expect("hold a link");
        }
    });
    assert!(daemon.cli(&["detach"]).status.success());
    assert_eq!(scene.refusals(&mut judge), [false, false]);
}

#[test]
fn every_event_is_delivered_folded_or_counted_as_dropped() {
    let scene = Scene::new();
    let mut daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut judge = scene.judge();
    let denied = SocketAddr::new(scene.target(Zone::Denied), PORT);
    const QUESTIONS: usize = 100_000;
    assert!(
        judge
            .ask(std::iter::repeat_n(denied, QUESTIONS))
            .into_iter()
            .all(|refused| refused)
    );
    let read = |key: &str| daemon.counter("bot", "events", key);
    // The daemon may still be reading the ring.
    for _ in 0..100 {
        if read("unread") == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let [produced, received, dropped] = ["produced", "received", "dropped"].map(read);
    assert_eq!(produced, QUESTIONS as u64);
    assert_eq!(produced, received + dropped);
    daemon.stop();
    let told: u64 = daemon
        .events()
        .read()
        .iter()
        .filter(|event| audit::identity(event) == "bot" && event["class_uid"] == 4001)
        .map(|event| event["count"].as_u64().expect("every record has a count"))
        .sum();
    assert_eq!(told, received, "what was received is told, each once");
    let lost: u64 = daemon
        .events()
        .read()
        .iter()
        .filter(|event| event["class_uid"] == 6008)
        .map(|event| event["count"].as_u64().expect("a loss has a count"))
        .sum();
    assert_eq!(lost, dropped, "what was lost is told");
}

#[test]
fn a_new_cgroup_is_labelled_as_it_appears_and_unknown_agents_are_refused() {
    let scene = Scene::new();
    let text = policy("").replace("cgroup = \"/bot\"", "systemd-unit = \"bot@*.service\"");
    let daemon = Daemon::start(&scene.sandbox, &text);
    let late = scene.sandbox.cgroup("system.slice/bot@7.service");
    daemon_labels(&daemon, "/system.slice/bot@7.service", "bot");
    let mut judge = Judge::start(&scene.sandbox.agent(&late));
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    let slice = scene.sandbox.cgroup("agents.slice/whoever.service");
    daemon_labels(&daemon, "/agents.slice/whoever.service", "unknown-agent");
    let mut judge = Judge::start(&scene.sandbox.agent(&slice));
    assert_eq!(scene.refusals(&mut judge), [true, true]);
    let mut judge = Judge::start(&scene.sandbox.agent(&scene.cgroup));
    assert_eq!(
        scene.refusals(&mut judge),
        [false, false],
        "no selector matches it any more"
    );
}

/// Waits until `ps` says that the cgroup at `path` belongs to `identity`.
fn daemon_labels(daemon: &Daemon, path: &str, identity: &str) {
    for _ in 0..100 {
        let cgroups = daemon.json(&["ps", "--json"]);
        let found = cgroups
            .as_array()
            .expect("ps is a list")
            .iter()
            .any(|cgroup| cgroup["path"] == path && cgroup["identity"] == identity);
        if found {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!(
        "{path} never belonged to {identity}: {}",
        daemon.json(&["ps", "--json"])
    );
}
