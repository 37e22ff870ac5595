//! Cgroups of one test, in a tree of their own below the cgroup v2 mount.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{agent::die_with_parent, requirements};

const PREFIX: &str = "agentguard-test-";

/// The top of a test's cgroups; what agentguard attaches to.
///
/// Dropping it kills what runs below and removes it.
#[derive(Debug)]
pub struct CgroupTree {
    top: Cgroup,
}

impl CgroupTree {
    /// Makes a tree with a name of its own, and first removes the trees of test runs that died.
    ///
    /// # Panics
    ///
    /// If cgroups cannot be made.
    #[must_use]
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mount = requirements::cgroup2_mount();
        SWEEP.call_once(|| sweep(&mount));
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self {
            top: Cgroup::create(mount.join(name)),
        }
    }

    /// The top itself.
    #[must_use]
    pub fn top(&self) -> &Cgroup {
        &self.top
    }
}

impl Default for CgroupTree {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for CgroupTree {
    fn drop(&mut self) {
        remove(&self.top.path);
    }
}

/// One cgroup, kept from vanishing by a process that sleeps in it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    keeper: Child,
}

impl Cgroup {
    fn create(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("make cgroup {path:?}: {error}"));
        let keeper = spawn_keeper(&path);
        Self { path, keeper }
    }

    /// Makes a cgroup below this one; `name` may have several parts.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    #[must_use]
    pub fn child(&self, name: impl AsRef<Path>) -> Self {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("make the cgroups above");
        }
        Self::create(path)
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id, as the kernel programs see it.
    ///
    /// # Panics
    ///
    /// If it is gone.
    #[must_use]
    pub fn id(&self) -> u64 {
        fs::metadata(&self.path).expect("the cgroup exists").ino()
    }

    /// Its path from the root of the hierarchy, as `/proc/PID/cgroup` shows it.
    ///
    /// # Panics
    ///
    /// If it lies outside the hierarchy.
    #[must_use]
    pub fn name(&self) -> String {
        let below = self
            .path
            .strip_prefix(requirements::cgroup2_mount())
            .expect("cgroups live below the mount");
        format!("/{}", below.display())
    }

    /// Moves a process here.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn adopt(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .unwrap_or_else(|error| panic!("move {pid} to {:?}: {error}", self.path));
    }

    /// The open `cgroup.procs`: writing `0` to it moves the writer here.
    ///
    /// # Panics
    ///
    /// If it cannot be opened.
    #[must_use]
    pub fn door(&self) -> File {
        OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"))
            .expect("open cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Both fail only for a keeper that has ended already.
        drop(self.keeper.kill());
        drop(self.keeper.wait());
    }
}

fn spawn_keeper(cgroup: &Path) -> Child {
    let mut command = Command::new("sleep");
    command
        .arg("infinity")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(die_with_parent) };
    let keeper = command.spawn().expect("start a keeper");
    fs::write(cgroup.join("cgroup.procs"), keeper.id().to_string()).expect("place the keeper");
    keeper
}

/// Removes the trees that runs of this suite left behind when they were killed.
fn sweep(mount: &Path) {
    for entry in fs::read_dir(mount).expect("list cgroups").flatten() {
        let name = entry.file_name();
        let Some(owner) = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        if !Path::new("/proc").join(owner).exists() {
            remove(&entry.path());
        }
    }
}

fn remove(top: &Path) {
    if let Err(error) = fs::write(top.join("cgroup.kill"), "1") {
        assert!(
            error.kind() == io::ErrorKind::NotFound,
            "kill what runs in {top:?}: {error}"
        );
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while remove_once(top).is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

fn remove_once(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}
