//! Forks as fast as it can; every child asks the kernel for one verdict and ends.

use std::{
    env,
    io::{self, Write},
    net::SocketAddr,
};

use socket2::{Domain, Socket, Type};

use crate::children::{Program, command, fork_child, fork_orphan, fork_thread};

/// Every so many children comes to its question another way.
const TWICE_FORKED: u32 = 7;
const EXECUTED: u32 = 101;
const THREADED: u32 = 13;

/// Runs `count` children that ask for `target`, and says how many were refused.
pub(crate) fn run(count: u32, target: SocketAddr) -> io::Result<()> {
    let program = Program::new(
        &env::current_exe()?,
        &["ask".to_owned(), target.to_string()],
    )?;
    let ask = move || u8::from(ask(target));
    let mut refused = 0;
    for number in 1..=count {
        let answer = if number % EXECUTED == 0 {
            command(&program)?
        } else if number % TWICE_FORKED == 0 {
            fork_orphan(ask)?
        } else if number % THREADED == 0 {
            fork_thread(ask)?
        } else {
            fork_child(ask)?
        };
        refused += u32::from(answer);
    }
    writeln!(io::stdout(), "{refused}")
}

/// Whether the kernel refuses `target`: the exit code of `ask`.
pub(crate) fn ask(target: SocketAddr) -> bool {
    matches!(
        connect(target).map_err(|error| error.raw_os_error()),
        Err(Some(libc::EPERM))
    )
}

/// Asks for a verdict, and sends nothing.
pub(crate) fn connect(target: SocketAddr) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)?.connect(&target.into())
}
