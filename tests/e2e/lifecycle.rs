//! Policies come and go, flows and daemons end: what must hold meanwhile.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agentguard_tests::{
    agent::Probe,
    audit,
    cgroup::Cgroup,
    daemon::Daemon,
    judge::Judge,
    network::{ALLOWED_ZONE, Family, Zone},
    probe::{Origin, Route, Spec},
    sandbox::Sandbox,
};

const PORT: u16 = 8000;

/// One identity that may reach the allowed zone, with more lines for it.
fn policy(identity: &str) -> String {
    let [v4, v6] = ALLOWED_ZONE;
    format!(
        "[roles.r]\n[[roles.r.egress]]\naddresses = [\"{v4}\", \"{v6}\"]\n\
         [identities.bot]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"r\"]\n\
         match = [{{ cgroup = \"/bot\" }}]\n{identity}\n"
    )
}

/// The same identity with a role that allows nothing.
fn revoked() -> String {
    policy("").replace("[[roles.r.egress]]", "[[roles.other.egress]]") + "[roles.other]\n"
}

fn spec(to: IpAddr, pause: bool) -> Spec {
    Spec {
        route: Route::Tcp,
        to: SocketAddr::new(to, PORT),
        decoy: SocketAddr::new(to, PORT),
        marker: format!("agentguard-lifecycle-{to}."),
        uid: 0,
        origin: Origin::Own,
        cgroup: Default::default(),
        pause,
    }
}

struct Scene {
    sandbox: Sandbox,
    cgroup: Cgroup,
}

impl Scene {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let cgroup = sandbox.cgroup("bot");
        Self { sandbox, cgroup }
    }

    fn target(&self, zone: Zone) -> IpAddr {
        self.sandbox.network.fresh(Family::V4, zone)
    }

    fn judge(&self) -> Judge {
        Judge::start(&self.sandbox.agent(&self.cgroup))
    }

    /// A TCP connection to the allowed zone that waits before it sends its marker.
    fn connect(&self) -> (Probe, Spec) {
        let spec = spec(self.target(Zone::Allowed), true);
        let mut probe = self.sandbox.agent(&self.cgroup).start(&spec);
        probe.wait_ready();
        (probe, spec)
    }

    fn marker_arrived(&self, spec: &Spec) -> bool {
        self.sandbox.sniffer.settle(&self.sandbox.network);
        self.sandbox
            .sniffer
            .count(|packet| packet.carries(&spec.marker))
            > 0
    }

    /// Whether the identity is refused the denied zone, and the allowed one.
    fn refusals(&self, judge: &mut Judge) -> [bool; 2] {
        let targets = [Zone::Denied, Zone::Allowed].map(|zone| self.target(zone));
        let answers = judge.ask(targets.map(|to| SocketAddr::new(to, PORT)));
        [answers[0], answers[1]]
    }
}

const ENFORCED: [bool; 2] = [true, false];

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
    daemon.among_mounts(|| {
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
fn a_swap_lets_nothing_denied_out_and_cuts_nothing_allowed() {
    const SWAPS: u32 = 200;
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy(""));
    let (mut flow, flow_spec) = scene.connect();
    let targets =
        [Zone::Denied, Zone::Allowed].map(|zone| SocketAddr::new(scene.target(zone), PORT));
    let done = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut asked: u64 = 0;
            while !done.load(Ordering::Relaxed) {
                // Probes live for minutes only, and the storm may last longer.
                let mut judge = scene.judge();
                for _ in 0..100 {
                    let answers = judge.ask(targets.into_iter().cycle().take(200));
                    for pair in answers.chunks_exact(2) {
                        assert_eq!(pair, ENFORCED, "after {asked} questions");
                    }
                    asked += 200;
                }
            }
            asked
        });
        for swap in 0..SWAPS {
            // Another rule comes and goes, so that classes and cells move.
            let more = if swap % 2 == 0 {
                "[[roles.r.egress]]\naddresses = [\"192.0.2.0/24\"]\nports = [\"1-9/udp\"]\n"
            } else {
                ""
            };
            if storm.is_finished() {
                break;
            }
            daemon.reload(&(policy("") + more));
        }
        done.store(true, Ordering::Relaxed);
        storm.join().expect("every answer was right")
    });
    assert_eq!(daemon.status()["generation"], SWAPS + 1);
    assert!(
        asked > u64::from(SWAPS),
        "only {asked} questions in {SWAPS} swaps"
    );
    flow.resume();
    flow.wait_ready();
    assert!(scene.marker_arrived(&flow_spec), "the allowed flow was cut");
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

#[test]
fn the_doctor_names_every_way_that_stays_open() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy(""));
    let report = daemon.json(&["doctor", "--json"]);
    let open: Vec<&str> = report["routes"]
        .as_array()
        .expect("routes are a list")
        .iter()
        .filter(|route| route["coverage"] == "open" && route["advice"].is_string())
        .filter_map(|route| route["id"].as_str())
        .collect();
    assert_eq!(
        open,
        [
            "af-packet",
            "tun",
            "vsock",
            "unix-socket",
            "passed-connected-descriptor",
            "leave-cgroup-as-root"
        ]
    );
}
