//! What the container starts with: it makes the mounts that systemd expects and becomes systemd.

use std::{
    convert::Infallible,
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::{Pid, chdir, getpid, pivot_root, sethostname},
};

/// Where the container has the tests.
pub(crate) const TESTS: &str = "/usr/local/bin/agentguard-tests";

/// Type, place, options.
const MOUNTS: [(&str, &str, &str); 8] = [
    ("proc", "proc", ""),
    ("sysfs", "sys", ""),
    ("cgroup2", "sys/fs/cgroup", ""),
    ("bpf", "sys/fs/bpf", "mode=700"),
    // systemd takes a `/run` that others may write for a broken one.
    ("tmpfs", "run", "mode=755"),
    ("tmpfs", "tmp", "mode=1777"),
    ("tmpfs", "dev", "mode=755"),
    ("devpts", "dev/pts", "newinstance,ptmxmode=0666"),
];

/// Name, minor number; the major number is 1.
const DEVICES: [(&str, u64); 5] = [
    ("null", 3),
    ("zero", 5),
    ("full", 7),
    ("random", 8),
    ("urandom", 9),
];

/// What a container is made from.
#[derive(Debug, clap::Args)]
pub(crate) struct Parts {
    /// The root directory; nothing is written to it.
    root: PathBuf,
    /// The program of the tests.
    tests: PathBuf,
}

/// Becomes the systemd of a container.
///
/// # Errors
///
/// Where this is not the first process of namespaces made for it: it would take the host's mounts.
pub(crate) fn run(parts: &Parts) -> Result<Infallible> {
    if getpid() != Pid::from_raw(1) {
        bail!("this is what a container starts with: use `cargo xtask test`");
    }
    sethostname("agentguard-test").context("cannot name the container")?;
    let root = overlay(&parts.root)?;
    fs::copy(&parts.tests, root.join(TESTS.trim_start_matches('/')))
        .with_context(|| format!("cannot copy {}", parts.tests.display()))?;
    for (kind, place, options) in MOUNTS {
        let place = root.join(place);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        attach(kind, &place, options)?;
    }
    make_devices(&root.join("dev"))?;
    enter(&root)?;
    let error = Command::new("/lib/systemd/systemd")
        .args(["--log-target=journal", "--show-status=false"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        // Without it systemd would set up a machine.
        .env("container", "agentguard")
        .exec();
    Err(error).context("cannot start systemd")
}

/// Lays memory over the root directory, so that each container begins with the same one.
fn overlay(lower: &Path) -> Result<PathBuf> {
    let layers = lower.with_file_name("layers");
    fs::create_dir_all(&layers).with_context(|| format!("cannot make {}", layers.display()))?;
    attach("tmpfs", &layers, "mode=755")?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| layers.join(name));
    for directory in [&upper, &work, &root] {
        fs::create_dir(directory)?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    attach("overlay", &root, &options)?;
    Ok(root)
}

fn attach(kind: &str, place: &Path, options: &str) -> Result<()> {
    mount(
        Some(kind),
        place,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    )
    .with_context(|| format!("cannot mount {kind} at {}", place.display()))
}

/// Makes the devices that programs take for granted; none reaches hardware.
fn make_devices(dev: &Path) -> Result<()> {
    let mode = Mode::from_bits_truncate(0o666);
    for (name, minor) in DEVICES {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, mode, makedev(1, minor))
            .with_context(|| format!("cannot make {}", path.display()))?;
        // The umask took some of it.
        fs::set_permissions(&path, Permissions::from_mode(mode.bits()))?;
    }
    fs::create_dir(dev.join("shm"))?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    symlink("/proc/self/fd", dev.join("fd"))?;
    Ok(())
}

/// Makes this the root of the namespace and lets go of the host's. Units with a sandbox of their own
/// fail in a mere chroot.
fn enter(root: &Path) -> Result<()> {
    chdir(root)?;
    pivot_root(".", ".").context("cannot change the root")?;
    // The old root now lies over the new one.
    umount2(".", MntFlags::MNT_DETACH).context("cannot let go of the old root")?;
    chdir("/").context("cannot enter the new root")
}
