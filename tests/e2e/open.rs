//! The ways out that `agentguard doctor` calls open: each is shown to be, so that the list is honest.
//! Where a later version closes one, its test fails and the list must change.

use std::{fs, process::Command, thread, time::Duration};

use agentguard_tests::{
    agent::{Probe, probe_path},
    daemon::Daemon,
    network::Zone,
    probe::{NOBODY, Origin, Report, Route, Spec},
};

use crate::scene::{ENFORCED, Scene, policy, spec};

/// Some scans of the open sockets come in this time, if one is wanted.
const ENROLMENT: Duration = Duration::from_millis(500);

/// Makes a test of each function, and `TRIED`: what the list must hold, no more and no less.
macro_rules! open_ways {
    ($($way:ident),* $(,)?) => {
        const TRIED: &[&str] = &[$(stringify!($way)),*];
        mod way {
            $(#[test] fn $way() { super::$way(&super::Restricted::new()) })*
        }
    };
}

open_ways![
    af_packet,
    tun,
    vsock,
    unix_socket,
    passed_connected_descriptor,
    leave_cgroup_as_root,
];

#[test]
fn the_doctor_lists_every_way_that_is_tried_here_and_no_other() {
    let restricted = Restricted::new();
    let report = restricted.daemon.json(&["doctor", "--json"]);
    let open: Vec<String> = report["routes"]
        .as_array()
        .expect("routes are a list")
        .iter()
        .filter(|route| route["coverage"] == "open" && route["advice"].is_string())
        .filter_map(|route| Some(route["id"].as_str()?.replace('-', "_")))
        .collect();
    assert_eq!(open, TRIED);
}

/// An identity that is refused the denied zone, and a daemon that sees to it.
struct Restricted {
    daemon: Daemon,
    scene: Scene,
}

impl Restricted {
    fn new() -> Self {
        let scene = Scene::new();
        let daemon = Daemon::start(&scene.sandbox, &policy(""));
        assert_eq!(scene.refusals(&mut scene.judge()), ENFORCED);
        Self { daemon, scene }
    }

    /// What the identity would be refused, by another route.
    fn denied(&self, route: Route) -> Spec {
        Spec {
            route,
            ..spec(self.scene.target(Zone::Denied), false)
        }
    }

    fn attempt(&self, spec: &Spec) -> Report {
        self.scene.sandbox.agent(&self.scene.cgroup).run(spec)
    }

    /// The packet is out, and nobody was told.
    fn assert_unseen(&self, report: Report, spec: &Spec) {
        assert_eq!(report, Report::Done);
        assert!(
            self.scene.marker_arrived(spec),
            "{:?} did not get out",
            spec.route
        );
        let told = self.daemon.events().text();
        let target = spec.address().to_string();
        assert!(!told.contains(&target), "{target} was judged:\n{told}");
    }
}

fn af_packet(restricted: &Restricted) {
    let spec = restricted.denied(Route::Packet);
    restricted.assert_unseen(restricted.attempt(&spec), &spec);
}

fn tun(restricted: &Restricted) {
    // The injected packet is forwarded like one of another host; it has our own source address.
    let client = &restricted.scene.sandbox.network.client;
    for (key, value) in [("ip_forward", "1"), ("conf/all/accept_local", "1")] {
        client.set_sysctl(&format!("ipv4/{key}"), value);
    }
    let spec = restricted.denied(Route::Tun);
    let report = restricted.attempt(&spec);
    if is_offered("tun") {
        restricted.assert_unseen(report, &spec);
    } else {
        assert_missing(&report, "open", &[libc::ENOENT, libc::ENODEV]);
    }
}

fn vsock(restricted: &Restricted) {
    let spec = Spec {
        uid: NOBODY,
        ..restricted.denied(Route::Vsock)
    };
    let report = restricted.attempt(&spec);
    if is_offered("vsock") {
        assert_eq!(report, Report::Done, "nobody has a bound vsock socket");
    } else {
        assert_missing(&report, "socket", &[libc::EAFNOSUPPORT]);
    }
}

fn unix_socket(restricted: &Restricted) {
    let sandbox = &restricted.scene.sandbox;
    let path = sandbox.files().join("proxy.sock");
    let cgroup = sandbox.cgroup("proxy");
    let mut command = Command::new(probe_path());
    command.arg("proxy").arg(&path);
    let mut proxy = Probe::from(sandbox.agent(&cgroup).spawn(command));
    proxy.wait_ready();
    let spec = Spec {
        cgroup: path,
        ..restricted.denied(Route::UnixProxy)
    };
    assert_eq!(restricted.attempt(&spec), Report::Done);
    assert!(
        restricted.scene.marker_arrived(&spec),
        "the proxy did not connect"
    );
}

fn passed_connected_descriptor(restricted: &Restricted) {
    let scene = &restricted.scene;
    let outside = scene.sandbox.cgroup("outside");
    let spec = Spec {
        origin: Origin::PassedConnected,
        cgroup: scene.cgroup.path().to_owned(),
        uid: NOBODY,
        ..restricted.denied(Route::Tcp)
    };
    let mut probe = scene.sandbox.agent(&outside).start(&spec);
    probe.wait_ready();
    thread::sleep(ENROLMENT);
    probe.resume();
    assert_eq!(probe.report(), Report::Done);
    assert!(scene.marker_arrived(&spec), "the passed socket was cut");
}

fn leave_cgroup_as_root(restricted: &Restricted) {
    let outside = restricted.scene.sandbox.cgroup("outside");
    let spec = Spec {
        origin: Origin::Left,
        cgroup: outside.path().to_owned(),
        ..restricted.denied(Route::Tcp)
    };
    assert_eq!(restricted.attempt(&spec), Report::Done);
    assert!(restricted.scene.marker_arrived(&spec), "it was followed");
}

/// Whether the kernel has this device. Asked after the attempt, which may load it.
fn is_offered(device: &str) -> bool {
    fs::read_to_string("/proc/misc")
        .expect("/proc is mounted")
        .lines()
        .any(|line| line.split_whitespace().nth(1) == Some(device))
}

/// The way is closed because this kernel does not have it at all.
fn assert_missing(report: &Report, wanted: &str, because: &[i32]) {
    let is_missing = matches!(
        report,
        Report::Failed { step, errno } if step == wanted && because.contains(errno)
    );
    assert!(
        is_missing,
        "this kernel has no such device, but {wanted} ended as {report:?}"
    );
}
