//! What the machine must have. A test that cannot run here fails, it is never skipped.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock};

/// Fails the test if the machine lacks something that the harness stands on.
///
/// # Panics
///
/// With all that is missing.
pub fn assert_met() {
    static MISSING: OnceLock<Vec<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(find_missing);
    assert!(
        missing.is_empty(),
        "this machine cannot run end-to-end tests: {}",
        missing.join("; ")
    );
}

/// Fails the test if there is no podman to make containers with.
///
/// # Panics
///
/// If one of its programs is missing.
pub fn assert_podman() {
    for program in ["podman", "crun"] {
        let is_there = Command::new(program).arg("--version").output();
        assert!(
            is_there.is_ok_and(|output| output.status.success()),
            "`{program}` is not installed: `cargo xtask test` installs what tests need"
        );
    }
}

/// The mount point of the cgroup v2 hierarchy.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn cgroup2_mount() -> PathBuf {
    find_cgroup2().expect("no cgroup2 mount in /proc/self/mountinfo")
}

fn find_missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root is needed".to_owned());
    }
    if find_cgroup2().is_none() {
        missing.push("no cgroup2 mount in /proc/self/mountinfo".to_owned());
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.ends_with("\tbpf")) {
        missing.push("the kernel has no bpffs".to_owned());
    }
    for namespace in ["net", "mnt", "user"] {
        if fs::symlink_metadata(format!("/proc/self/ns/{namespace}")).is_err() {
            missing.push(format!("the kernel has no {namespace} namespaces"));
        }
    }
    if fs::symlink_metadata("/proc/sys/net/ipv6").is_err() {
        missing.push("the kernel has no IPv6".to_owned());
    }
    if !Command::new("ip")
        .arg("-V")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        missing.push("`ip` is not installed (package iproute2)".to_owned());
    }
    missing
}

fn find_cgroup2() -> Option<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mountinfo.lines().find_map(|line| {
        // Fields before ` - ` vary in number: the mount point is the fifth, the type the first after.
        let (mount, filesystem) = line.split_once(" - ")?;
        (filesystem.split(' ').next()? == "cgroup2")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}
