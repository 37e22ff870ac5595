//! What only a virtual machine can bear: `cargo xtask vm` runs these, and no other command does.

use std::{
    env,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    daemon::Daemon,
    judge::{Judge, Question},
    network::Zone,
    world::PORT,
};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};

use crate::{
    limits::{policy, quota},
    scene::Scene,
};

const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

/// 2027-03-10 12:00 UTC.
const NOON: i64 = 1_804_680_000;

/// The daemon looks at the clock each second; an emulated machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

fn set_clock(seconds: i64) {
    assert!(
        env::var_os("AGENTGUARD_GUEST").is_some(),
        "this sets the clock: only `cargo xtask vm` may run it"
    );
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, 0)).expect("set the clock");
}

fn wait_for_used(daemon: &Daemon, bytes: u64, when: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let used = quota::used(daemon);
        if used == bytes {
            return;
        }
        assert!(Instant::now() < deadline, "{when}: {used} of {bytes}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Who sets the clock moves no deadline and gives nothing back; days end when it says so.
#[test]
fn a_clock_that_is_set_moves_the_ends_of_quotas_and_nothing_else() {
    set_clock(NOON);
    let scene = Scene::new();
    let brief = scene.sandbox.cgroup("brief");
    let text = policy::identity(
        "bot",
        "connections = { rate = \"1/hour\", burst = 50 }\negress-quota = \"1MiB/day\"",
    ) + &policy::identity("brief", "concurrent = 5")
        .replace("roles = ", "expires = 2027-03-10T13:00:00Z\nroles = ");
    let daemon = Daemon::start(&scene.sandbox, &text);
    let mut judge = scene.judge();
    let mut short = Judge::start(&scene.sandbox.agent(&brief));
    let ask = |judge: &mut Judge| {
        let to = SocketAddr::new(scene.target(Zone::Allowed), PORT);
        judge.put(&[Question::udp_connect(to)])[0]
    };
    quota::spend(&scene, 100);
    let mut flow = quota::Flow::open(&scene);
    // All that is left of the rate.
    while ask(&mut judge) == 0 {}
    let mut unmoved = |when: &str| {
        assert_eq!(ask(&mut judge), libc::EAGAIN, "{when}: the rate");
        assert_eq!(ask(&mut short), 0, "{when}: the deadline");
    };
    assert_eq!(quota::used(&daemon), 100 << 10);
    for (seconds, when) in [(DAY, "a day on"), (YEAR, "a year on")] {
        set_clock(NOON + seconds);
        wait_for_used(&daemon, 0, when);
        unmoved(when);
        // The flow that is open goes on, and is counted in the new day.
        flow.spend(10);
        wait_for_used(&daemon, 10 << 10, when);
    }
    for (seconds, when) in [
        (0, "back again"),
        (-DAY, "a day back"),
        (-YEAR, "a year back"),
    ] {
        set_clock(NOON + seconds);
        // It has time to do wrong.
        thread::sleep(Duration::from_secs(3));
        unmoved(when);
        assert_eq!(
            quota::used(&daemon),
            10 << 10,
            "{when}: nothing is given back"
        );
    }
    // Just before midnight of that day long ago.
    set_clock(NOON - YEAR + DAY / 2 - 5);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(quota::used(&daemon), 10 << 10, "before midnight");
    wait_for_used(&daemon, 0, "after midnight");
    set_clock(NOON);
}
