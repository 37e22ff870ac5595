//! A mount namespace of a test's own.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// What is mounted in it is seen by nobody else, and gone with its last user.
#[derive(Debug)]
pub struct Mounts(OwnedFd);

impl Mounts {
    /// Begins with those of the host.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[must_use]
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("unshare the mounts");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .expect("make mounts private");
            File::open("/proc/thread-self/ns/mnt").expect("open the mount namespace")
        });
        Self(made.join().expect("make a mount namespace").into())
    }

    /// Runs `work` where they are seen.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub fn among<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS).expect("leave the shared working directory");
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNS).expect("enter the mounts");
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Has `command` run where they are seen.
    ///
    /// # Panics
    ///
    /// If their descriptor cannot be copied.
    pub fn take_in(&self, command: &mut Command) {
        let mounts = self.0.try_clone().expect("copy the mounts' descriptor");
        // SAFETY: the closure makes a system call on a descriptor it owns, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
                Ok(())
            })
        };
    }

    /// Lays an empty directory in memory over `directory`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn empty(&self, directory: &Path) {
        self.among(|| {
            let kind = Some("tmpfs");
            mount(
                kind,
                directory,
                kind,
                MsFlags::empty(),
                Some("mode=755,size=64m"),
            )
            .unwrap_or_else(|error| panic!("mount tmpfs at {directory:?}: {error}"));
        });
    }

    /// Shows `source` at `target`, which is made if it is not there.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn bind(&self, source: &Path, target: &Path) {
        self.among(|| {
            if source.is_dir() {
                fs::create_dir_all(target).unwrap_or_else(|error| panic!("{target:?}: {error}"));
            }
            let none = None::<&str>;
            mount(Some(source), target, none, MsFlags::MS_BIND, none)
                .unwrap_or_else(|error| panic!("mount {source:?} at {target:?}: {error}"));
        });
    }
}

impl Default for Mounts {
    fn default() -> Self {
        Self::new()
    }
}
