//! The processes that are there already, from /proc.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read as _,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
        },
    },
    path::{Path, PathBuf},
};

use agentguard_common::process::{NO_EXEC, ProcessLabel};
use nix::{
    fcntl::{OFlag, openat, readlinkat},
    sys::stat::Mode,
};

use super::start_ns;
use crate::identity::execution::{Execution, set};

/// The first user namespace (`PROC_USER_INIT_INO`).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Bytes of a script's first line that name its interpreter.
const SHEBANG_BYTES: usize = 256;

/// A process found in /proc.
pub(in crate::daemon) struct FoundProcess {
    /// Its id.
    pub(in crate::daemon) pid: u32,
    /// When it started, on the boot clock, rounded down to a tick.
    pub(in crate::daemon) start_ns: u64,
    /// The number of its exec: that of its label, or else a new one.
    pub(in crate::daemon) exec_id: u64,
    /// What it runs.
    pub(in crate::daemon) execution: Execution,
}

/// Every process, with new numbers from `next` on for those without a label.
pub(in crate::daemon) fn find(
    labelled: &HashMap<u32, ProcessLabel>,
    next: &mut u64,
) -> Vec<FoundProcess> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found: Vec<FoundProcess> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| {
            let (start_ns, execution) = look_at(pid)?;
            let exec_id = labelled.get(&pid).map_or_else(
                || {
                    *next += 1;
                    *next
                },
                |label| label.exec_id,
            );
            Some(FoundProcess {
                pid,
                start_ns,
                exec_id,
                execution,
            })
        })
        .collect();
    let execs: HashMap<u32, u64> = found
        .iter()
        .map(|process| (process.pid, process.exec_id))
        .collect();
    for process in &mut found {
        let parent = execs.get(&process.execution.parent_pid).copied();
        process.execution.parent = parent.unwrap_or(NO_EXEC);
        // What it ran before is not known any more; it was forked from its parent.
        process.execution.former = process.execution.parent;
    }
    found
}

/// When process `pid` started, on the boot clock, rounded down to a tick; `None` if it is gone.
pub(in crate::daemon) fn start_of(pid: u32) -> Option<u64> {
    start_ns(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn look_at(pid: u32) -> Option<(u64, Execution)> {
    // Through one descriptor: once the process is gone, it reads nothing of the next with its pid.
    let directory: OwnedFd = File::open(format!("/proc/{pid}")).ok()?.into();
    let stat = read(&directory, "stat")?;
    let status = String::from_utf8_lossy(&read(&directory, "status")?).into_owned();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let number = |name: &str| field(name)?.split_whitespace().next()?.parse().ok();
    // Kernel threads have no executable, and open no sockets in anybody's name.
    let exe = readlinkat(&directory, "exe").ok()?;
    let file = open(&directory, "exe", OFlag::O_PATH).and_then(|file| file.metadata().ok());
    let path = without_deleted(exe.as_bytes());
    let text = |name| Some(String::from_utf8_lossy(&read(&directory, name)?).into_owned());
    let id = |name| text(name).and_then(|text| text.trim().parse().ok());
    let execution = Execution {
        pid,
        parent_pid: number("PPid:")?,
        former: NO_EXEC,
        parent: NO_EXEC,
        path: Some(path.into()),
        script: script_of(&directory, path),
        on_host: is_on_host(&directory),
        uid: number("Uid:")?,
        gid: number("Gid:")?,
        login_uid: id("loginuid").and_then(set),
        session_id: id("sessionid").and_then(set),
        cgroup_id: 0,
        device: 0,
        inode: file.map_or(0, |file| file.ino()),
    };
    Some((start_ns(&stat)?, execution))
}

/// Whether paths are to this process what they are to the daemon.
fn is_on_host(directory: &OwnedFd) -> bool {
    let is_initial = fs::File::from(
        match openat(
            directory,
            "ns/user",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Ok(namespace) => namespace,
            Err(_) => return false,
        },
    )
    .metadata()
    .is_ok_and(|namespace| namespace.ino() == INITIAL_USER_NAMESPACE);
    let root = open(directory, "root", OFlag::O_PATH).and_then(|root| root.metadata().ok());
    let own = fs::metadata("/").ok();
    is_initial
        && root
            .zip(own)
            .is_some_and(|(root, own)| (root.dev(), root.ino()) == (own.dev(), own.ino()))
}

/// The script that a process runs, where its first argument is a file that names the executable as
/// its interpreter. What the process was started with may differ: arguments can be overwritten.
fn script_of(directory: &OwnedFd, executable: &[u8]) -> Option<Box<[u8]>> {
    let arguments = read(directory, "cmdline")?;
    let mut arguments = arguments.split(|&byte| byte == 0);
    let _name = arguments.next()?;
    let script = arguments.find(|argument| argument.first() != Some(&b'-'))?;
    let relative = Path::new(std::ffi::OsStr::from_bytes(script));
    let script = match relative.is_absolute() {
        true => relative.to_owned(),
        false => {
            let here = readlinkat(directory, "cwd").ok()?;
            let name = relative.strip_prefix(".").unwrap_or(relative);
            PathBuf::from(here).join(name)
        }
    };
    let mut line = [0; SHEBANG_BYTES];
    let length = File::open(&script).ok()?.read(&mut line).ok()?;
    let line = line.get(..length)?.strip_prefix(b"#!")?;
    let interpreter = line
        .split(|byte| byte.is_ascii_whitespace())
        .find(|word| !word.is_empty())?;
    let interpreter = Path::new(std::ffi::OsStr::from_bytes(interpreter));
    let real = fs::canonicalize(interpreter).ok()?;
    (real.as_os_str().as_bytes() == executable || is_env(interpreter))
        .then(|| script.into_os_string().into_vec().into())
}

/// `#!/usr/bin/env NAME` runs another executable than it names.
fn is_env(interpreter: &Path) -> bool {
    interpreter.file_name().is_some_and(|name| name == "env")
}

/// The kernel adds this to the path of a file that has been removed.
fn without_deleted(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

fn open(directory: &OwnedFd, name: &str, flags: OFlag) -> Option<File> {
    openat(directory, name, flags | OFlag::O_CLOEXEC, Mode::empty())
        .ok()
        .map(File::from)
}

fn read(directory: &OwnedFd, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    open(directory, name, OFlag::O_RDONLY)?
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_parent() {
        let mut next = 100;
        let found = find(&HashMap::new(), &mut next);
        let own = found
            .iter()
            .find(|process| process.pid == std::process::id())
            .unwrap();
        let exe = std::env::current_exe().unwrap();
        let path = own.execution.path.as_deref().unwrap();
        assert_eq!(path, exe.as_os_str().as_bytes());
        assert_eq!(own.execution.uid, nix::unistd::getuid().as_raw());
        assert!(own.execution.on_host);
        let parent = nix::unistd::getppid().as_raw().cast_unsigned();
        let parent = found.iter().find(|process| process.pid == parent).unwrap();
        assert_eq!(own.execution.parent, parent.exec_id);
        assert_eq!(start_of(own.pid), Some(own.start_ns));
        assert!(own.exec_id > 100 && own.exec_id <= next);
    }

    #[test]
    fn a_label_keeps_its_number() {
        let label = ProcessLabel {
            exec_id: 7,
            ..ProcessLabel::default()
        };
        let labelled = HashMap::from([(std::process::id(), label)]);
        let found = find(&labelled, &mut 100);
        let own = found
            .iter()
            .find(|process| process.pid == std::process::id());
        assert_eq!(own.unwrap().exec_id, 7);
    }
}
