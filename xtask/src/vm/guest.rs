//! Inside the virtual machine, this program is the first process: it mounts what a system has, runs
//! the tests, and turns the machine off.

use std::{
    convert::Infallible,
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        wait::{WaitStatus, wait},
    },
    unistd::{Pid, getpid},
};

/// The last line of a guest whose tests ended well.
pub(crate) const FAREWELL: &str = "guest: the tests ended well";

/// Where things are, from the root of the guest.
pub(crate) const AGENTGUARD: &str = "agentguard/agentguard";
pub(crate) const PROBE: &str = "agentguard/agentguard-probe";
pub(crate) const TESTS: &str = "agentguard/deps/e2e";
pub(crate) const MODULES: &str = "modules";

/// Type, place.
const MOUNTS: [(&str, &str); 5] = [
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/tmp"),
];

/// Lives the life of a guest.
///
/// # Errors
///
/// Where this is no guest: it would turn the host off.
pub(crate) fn run(filter: &[String]) -> Result<Infallible> {
    if getpid() != Pid::from_raw(1) {
        bail!("this is what a virtual machine starts with: use `cargo xtask vm`");
    }
    match test(filter) {
        Ok(()) => println!("{FAREWELL}"),
        Err(error) => println!("guest: {error:#}"),
    }
    Ok(reboot(RebootMode::RB_POWER_OFF)?)
}

fn test(filter: &[String]) -> Result<()> {
    for (kind, place) in MOUNTS {
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount {kind} at {place}"))?;
    }
    load_modules()?;
    let root = Path::new("/");
    let tests = Command::new(root.join(TESTS))
        .args(filter)
        .env("PATH", "/bin")
        .env("AGENTGUARD_BIN", root.join(AGENTGUARD))
        .env("AGENTGUARD_GUEST", "1")
        .spawn()
        .context("cannot start the tests")?;
    let tests = Pid::from_raw(tests.id().try_into()?);
    // Whoever is left alone becomes a child of the first process.
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, status)) if pid == tests => {
                ensure!(status == 0, "the tests ended with status {status}");
                return Ok(());
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == tests => {
                bail!("the tests died of {signal}");
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the tests"),
        }
    }
}

fn load_modules() -> Result<()> {
    let mut modules = fs::read_dir(Path::new("/").join(MODULES))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    modules.sort_unstable();
    for module in modules {
        let file = File::open(&module)?;
        let flags = if module
            .extension()
            .is_some_and(|extension| extension == "xz")
        {
            // MODULE_INIT_COMPRESSED_FILE, which nix has no name for.
            ModuleInitFlags::from_bits_retain(4)
        } else {
            ModuleInitFlags::empty()
        };
        finit_module(&file, c"", flags)
            .with_context(|| format!("cannot load {}", module.display()))?;
    }
    Ok(())
}
