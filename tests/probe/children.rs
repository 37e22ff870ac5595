//! The ways in which a process comes about. Each returns what the last one of the chain ends with.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
    process::Command,
    ptr, thread,
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, execv, fork, getppid, pipe, read, write},
};

/// What a child that could not do its part ends with.
const BROKEN: u8 = 255;

/// A program with its arguments, laid out before there are threads or children.
pub(crate) struct Program(Vec<CString>);

impl Program {
    pub(crate) fn new(path: &Path, arguments: &[String]) -> io::Result<Self> {
        let arguments = arguments.iter().map(OsStr::new);
        let words = std::iter::once(path.as_os_str()).chain(arguments);
        let words: Result<_, _> = words.map(|word| CString::new(word.as_bytes())).collect();
        Ok(Self(words?))
    }

    /// Becomes it in a child.
    fn exec(&self) -> u8 {
        drop(self.replace());
        BROKEN
    }

    /// Becomes it; returns only why it could not.
    pub(crate) fn replace(&self) -> io::Error {
        match execv(&self.0[0], &self.0) {
            Err(errno) => errno.into(),
        }
    }
}

/// A forked child.
pub(crate) fn fork_child(work: impl FnOnce() -> u8) -> io::Result<u8> {
    // SAFETY: this process has one thread, and the child ends without returning.
    match unsafe { fork() }? {
        ForkResult::Child => end(work()),
        ForkResult::Parent { child } => exit_code(child),
    }
}

/// A grandchild whose parent has ended.
pub(crate) fn fork_orphan(work: impl FnOnce() -> u8) -> io::Result<u8> {
    let (answers, answer) = pipe()?;
    fork_child(|| {
        // SAFETY: as above.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let parent = getppid();
                while getppid() == parent && parent != Pid::from_raw(1) {
                    thread::yield_now();
                }
                let answered = write(&answer, &[work()]);
                end(u8::from(answered.is_err()))
            }
            Ok(ForkResult::Parent { .. }) | Err(_) => 0,
        }
    })?;
    let mut byte = [BROKEN];
    drop(answer);
    read(&answers, &mut byte)?;
    Ok(byte[0])
}

/// A thread of a forked child.
pub(crate) fn fork_thread(work: impl FnOnce() -> u8 + Send + 'static) -> io::Result<u8> {
    fork_child(|| thread::spawn(work).join().unwrap_or(BROKEN))
}

/// The last thread of a forked child, whose first thread has ended.
pub(crate) fn fork_headless(work: impl FnOnce() -> u8 + Send + 'static) -> io::Result<u8> {
    fork_child(|| {
        thread::spawn(move || {
            while !is_headless() {
                thread::yield_now();
            }
            end(work())
        });
        // SAFETY: ends this thread alone; nothing on its stack is used by the other.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        BROKEN
    })
}

fn is_headless() -> bool {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|fields| fields.starts_with(" Z"))
}

/// A forked child that becomes a program.
pub(crate) fn fork_exec(program: &Program) -> io::Result<u8> {
    fork_child(|| program.exec())
}

/// A forked child of which a thread, and not the first, becomes a program.
pub(crate) fn fork_thread_exec(program: &'static Program) -> io::Result<u8> {
    fork_thread(|| program.exec())
}

/// A program by `posix_spawn`, which shares the memory of the parent until it runs.
pub(crate) fn spawn(program: &Program) -> io::Result<u8> {
    let mut pid = 0;
    let pointer = |word: &CString| word.as_ptr().cast_mut();
    let mut words: Vec<_> = program.0.iter().map(pointer).collect();
    words.push(ptr::null_mut());
    let environment = [ptr::null_mut()];
    // SAFETY: both lists end with null, and are only read.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            words[0],
            ptr::null(),
            ptr::null(),
            words.as_ptr(),
            environment.as_ptr(),
        )
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    exit_code(Pid::from_raw(pid))
}

/// A program by the standard library.
pub(crate) fn command(program: &Program) -> io::Result<u8> {
    let text = |word: &CStr| OsStr::from_bytes(word.to_bytes()).to_owned();
    let words = program.0.iter().map(|word| text(word));
    let status = Command::new(text(&program.0[0]))
        .args(words.skip(1))
        .status()?;
    code_of(status.code(), &status)
}

/// A child that is born in the cgroup of the open directory, and by the number `pid` if one is given.
pub(crate) fn clone_child(
    cgroup: Option<&File>,
    pid: Option<i32>,
    work: impl FnOnce() -> u8,
) -> io::Result<u8> {
    match clone3(cgroup, pid)? {
        0 => end(work()),
        child => exit_code(Pid::from_raw(child)),
    }
}

/// A child by the number `pid` that nobody waits for. Returns twice; whether this is the child.
pub(crate) fn clone_alone(pid: i32) -> io::Result<bool> {
    Ok(clone3(None, Some(pid))? == 0)
}

/// Returns twice, in the child with 0.
fn clone3(cgroup: Option<&File>, pid: Option<i32>) -> io::Result<i32> {
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    // SAFETY: plain numbers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    if let Some(pid) = &pid {
        arguments.set_tid = ptr::from_ref(pid) as u64;
        arguments.set_tid_size = 1;
    }
    // SAFETY: without a stack of its own the child has a copy of this one, and this process has one
    // thread.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of_val(&arguments),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// As [`clone_child`], into a cgroup and becoming a program there.
pub(crate) fn clone_exec(cgroup: &File, program: &Program) -> io::Result<u8> {
    clone_child(Some(cgroup), None, || program.exec())
}

/// Ends this process at once, without what its parent has registered for its end.
pub(crate) fn end(code: u8) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code.into()) }
}

fn exit_code(child: Pid) -> io::Result<u8> {
    let status = waitpid(child, None)?;
    let code = if let WaitStatus::Exited(_, code) = status {
        Some(code)
    } else {
        None
    };
    code_of(code, &status)
}

fn code_of(code: Option<i32>, status: &impl std::fmt::Debug) -> io::Result<u8> {
    code.and_then(|code| u8::try_from(code).ok())
        .filter(|code| *code != BROKEN)
        .ok_or_else(|| io::Error::other(format!("a child ended: {status:?}")))
}
