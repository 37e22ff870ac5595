//! Forks as fast as it can; every child asks the kernel for one verdict and ends.

use std::{
    env,
    io::{self, Write},
    net::SocketAddr,
    process::Command,
    thread,
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork, getppid, pipe, read, write},
};
use socket2::{Domain, Socket, Type};

/// Every so many children comes to its question another way.
const TWICE_FORKED: u32 = 7;
const EXECUTED: u32 = 101;
const THREADED: u32 = 13;

/// Runs `count` children that ask for `target`, and says how many were refused.
pub(crate) fn run(count: u32, target: SocketAddr) -> io::Result<()> {
    let mut refused = 0;
    for number in 1..=count {
        let is_refused = if number % EXECUTED == 0 {
            let status = Command::new(env::current_exe()?)
                .args(["ask", &target.to_string()])
                .status()?;
            status.code() == Some(1)
        } else if number % TWICE_FORKED == 0 {
            from_an_orphan(target)?
        } else if number % THREADED == 0 {
            from_a_thread(target)?
        } else {
            from_a_child(|| ask(target))?
        };
        refused += u32::from(is_refused);
    }
    writeln!(io::stdout(), "{refused}")
}

/// Whether the kernel refuses `target`: the exit code of `ask`.
pub(crate) fn ask(target: SocketAddr) -> bool {
    let Ok(socket) = Socket::new(Domain::IPV4, Type::DGRAM, None) else {
        return false;
    };
    let answer = socket.connect(&target.into());
    matches!(
        answer.map_err(|error| error.raw_os_error()),
        Err(Some(libc::EPERM))
    )
}

fn from_a_child(question: impl FnOnce() -> bool) -> io::Result<bool> {
    // SAFETY: this process has one thread, and the child ends without returning.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: ends the child at once, without what the parent has registered for its end.
            unsafe { libc::_exit(i32::from(question())) }
        }
        ForkResult::Parent { child } => exit_code(child).map(|code| code == 1),
    }
}

/// A grandchild asks once its parent has ended.
fn from_an_orphan(target: SocketAddr) -> io::Result<bool> {
    let (answers, answer) = pipe()?;
    from_a_child(|| {
        // SAFETY: as above.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let parent = getppid();
                while getppid() == parent && parent != Pid::from_raw(1) {
                    thread::yield_now();
                }
                let answered = write(&answer, &[u8::from(ask(target))]);
                // SAFETY: as above.
                unsafe { libc::_exit(i32::from(answered.is_err())) }
            }
            Ok(ForkResult::Parent { .. }) | Err(_) => false,
        }
    })?;
    let mut byte = [2];
    drop(answer);
    read(&answers, &mut byte)?;
    Ok(byte == [1])
}

/// A thread of a child asks.
fn from_a_thread(target: SocketAddr) -> io::Result<bool> {
    from_a_child(|| {
        let thread = thread::spawn(move || ask(target));
        thread.join().unwrap_or(false)
    })
}

fn exit_code(child: Pid) -> io::Result<i32> {
    let status = waitpid(child, None)?;
    if let WaitStatus::Exited(_, code) = status {
        return Ok(code);
    }
    Err(io::Error::other(format!("a child ended: {status:?}")))
}
