//! What a running systemd tells of its units. Each test needs systemd as PID 1, its bus, root and
//! the cgroup v2 hierarchy at `/sys/fs/cgroup`: `cargo xtask test` boots a container for them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
    process::Command,
    time::Duration,
};

use agentguard_daemon::identity::context::{
    Context,
    resolver::{Resolver, Sources},
};
use tokio::time::timeout;

const ROOT: &str = "/sys/fs/cgroup";

/// Keeps the tests from a host that they would leave units on, or wait for in vain.
fn assert_booted() {
    let first = fs::read_to_string("/proc/1/comm").unwrap();
    let first = first.trim_end();
    assert_eq!(first, "systemd", "PID 1 is not systemd: `cargo xtask test`");
    let container = fs::read("/run/systemd/container").is_ok();
    assert!(container, "this is no container: `cargo xtask test`");
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

/// What is known of the cgroup at `path` at once, and what later.
async fn context(path: &str) -> (Context, Context) {
    let mut resolver = Resolver::new(Sources::of_host(Path::new(ROOT))).unwrap();
    let directory = File::open(format!("{ROOT}{path}")).unwrap();
    let id = directory.metadata().unwrap().ino();
    let directory = OwnedFd::from(directory);
    let at_once = resolver.context(id, path, Some(&directory));
    let later = timeout(Duration::from_secs(10), resolver.next()).await;
    (at_once.clone(), later.map_or(at_once, |(_, later)| later))
}

/// Writes a unit file and has systemd read it.
fn write_unit(name: &str, text: &str) {
    fs::write(format!("/etc/systemd/system/{name}"), text).unwrap();
    run("systemctl", &["daemon-reload"]);
}

#[tokio::test]
#[ignore = "needs systemd as PID 1"]
async fn a_transient_unit_of_root_claims_an_identity() {
    assert_booted();
    run(
        "systemd-run",
        &[
            "--unit=claim-transient",
            "--slice=agents-a",
            "--property=LogExtraFields=AGENTGUARD_IDENTITY=sync",
            "sleep",
            "60",
        ],
    );
    let path = "/agents.slice/agents-a.slice/claim-transient.service";
    let (at_once, later) = context(path).await;
    run("systemctl", &["kill", "claim-transient"]);
    assert_eq!(at_once.unit.as_deref(), Some("claim-transient.service"));
    assert_eq!(at_once.slices, ["agents.slice", "agents-a.slice"]);
    assert_eq!(at_once.claim, None);
    assert_eq!(at_once.run_id.as_ref().map(String::len), Some(32));
    assert_eq!(later.claim.as_deref(), Some("sync"));
    assert_eq!(later.run_id, at_once.run_id);
    assert!(!later.timer);
}

#[tokio::test]
#[ignore = "needs systemd as PID 1"]
async fn a_timer_and_an_instance_are_known() {
    assert_booted();
    write_unit(
        "claim-timed@.service",
        "[Service]\nExecStart=sleep 60\nLogExtraFields=AGENTGUARD_IDENTITY=job-%i\n",
    );
    write_unit(
        "claim-timed@a.timer",
        "[Timer]\nOnActiveSec=0\nAccuracySec=1us\nUnit=claim-timed@a.service\n",
    );
    run("systemctl", &["start", "claim-timed@a.timer"]);
    let path = "/system.slice/system-claim\\x2dtimed.slice/claim-timed@a.service";
    while !Path::new(&format!("{ROOT}{path}")).exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, later) = context(path).await;
    run(
        "systemctl",
        &["stop", "claim-timed@a.timer", "claim-timed@a.service"],
    );
    assert_eq!(later.unit.as_deref(), Some("claim-timed@a.service"));
    assert_eq!(later.claim.as_deref(), Some("job-a"));
    assert!(later.timer);
}

#[tokio::test]
#[ignore = "needs systemd as PID 1"]
async fn a_unit_that_others_can_write_claims_nothing() {
    assert_booted();
    write_unit(
        "claim-loose.service",
        "[Service]\nExecStart=sleep 60\nLogExtraFields=AGENTGUARD_IDENTITY=sync\n",
    );
    let drop_ins = "/etc/systemd/system/claim-loose.service.d";
    fs::create_dir_all(drop_ins).unwrap();
    let drop_in = format!("{drop_ins}/own.conf");
    fs::write(&drop_in, "[Unit]\nDescription=x\n").unwrap();
    std::os::unix::fs::chown(&drop_in, Some(65_534), None).unwrap();
    run("systemctl", &["daemon-reload"]);
    run("systemctl", &["start", "claim-loose"]);
    let (_, later) = context("/system.slice/claim-loose.service").await;
    std::os::unix::fs::chown(&drop_in, Some(0), None).unwrap();
    let (_, mended) = context("/system.slice/claim-loose.service").await;
    run("systemctl", &["stop", "claim-loose"]);
    assert_eq!(later.claim, None);
    assert_eq!(mended.claim.as_deref(), Some("sync"));
}

#[tokio::test]
#[ignore = "needs systemd as PID 1"]
async fn a_unit_in_the_subtree_of_a_unit_is_none() {
    assert_booted();
    run(
        "systemd-run",
        &[
            "--unit=claim-above",
            "--property=Delegate=yes",
            "sleep",
            "60",
        ],
    );
    let path = "/system.slice/claim-above.service/claim-transient.service";
    fs::create_dir(format!("{ROOT}{path}")).unwrap();
    let mut resolver = Resolver::new(Sources::of_host(Path::new(ROOT))).unwrap();
    let directory = OwnedFd::from(File::open(format!("{ROOT}{path}")).unwrap());
    let context = resolver.context(1, path, Some(&directory));
    fs::remove_dir(format!("{ROOT}{path}")).unwrap();
    run("systemctl", &["kill", "claim-above"]);
    assert_eq!((context.unit, context.claim), (None, None));
}
