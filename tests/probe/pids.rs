//! Processes that take their process ids from one another.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::SocketAddr,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    thread,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::wait::wait,
    unistd::{fork, getpid},
};

use crate::{children, storm};

/// Process ids that are fought for.
const POOL: i32 = 8;

/// Forks in a chain, at most: it ends sooner, with its harness.
const LINKS: u32 = 1_000_000;

/// Makes `count` children by the ids from `first` on, each as soon as it is free, and has each ask for
/// `target`. Says how many were refused, and how many had the id of somebody else's child. In `ledger`
/// stands who was the last to have an id: a byte for each, which is whose it is that has the id.
pub(crate) fn fight(
    count: u32,
    first: i32,
    ledger: &Path,
    mark: u8,
    target: SocketAddr,
) -> io::Result<()> {
    let ledger = File::options().read(true).write(true).open(ledger)?;
    let (mut made, mut refused, mut taken) = (0, 0, 0);
    for number in (0..POOL).cycle() {
        if made == count {
            break;
        }
        let offset = u64::from(number.cast_unsigned());
        let answer = children::clone_child(None, Some(first + number), || {
            let is_refused = storm::ask(target);
            let mut last = [0];
            let noted = ledger.read_at(&mut last, offset).is_ok()
                && ledger.write_at(&[mark], offset).is_ok();
            if !noted {
                children::end(u8::MAX);
            }
            u8::from(is_refused) | u8::from(last != [mark]) << 1
        });
        match answer {
            Ok(answer) => {
                made += 1;
                refused += u32::from(answer & 1);
                taken += u32::from(answer >> 1);
            }
            // Another has it.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    writeln!(io::stdout(), "{refused} {taken}")
}

/// A chain of processes each of which forks the next and ends, so that there is never more than one for
/// long: now with a low id and now with a high one. For each byte of stdin the one that reads it asks
/// for `target` and answers with a byte: whether it was refused.
pub(crate) fn chain(low: i32, high: i32, target: SocketAddr) -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    // SAFETY: this process has one thread.
    if unsafe { fork() }?.is_child() {
        link(low, high, target, LINKS);
    }
    while wait().is_ok() {}
    Ok(())
}

fn link(low: i32, high: i32, target: SocketAddr, mut left: u32) -> ! {
    let mut number = 0;
    loop {
        if left == 0 || !answer_if_asked(target).unwrap_or(false) {
            children::end(0);
        }
        left -= 1;
        let others = if getpid().as_raw() < high { high } else { low };
        number = (number + 1) % POOL;
        match children::clone_alone(others + number) {
            Ok(true) => {}
            Ok(false) => children::end(0),
            // That id is not free yet.
            Err(_) => thread::yield_now(),
        }
    }
}

/// Whether the harness still listens.
fn answer_if_asked(target: SocketAddr) -> io::Result<bool> {
    let mut stdin = io::stdin();
    let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ready, PollTimeout::ZERO)? == 0 {
        return Ok(true);
    }
    let mut byte = [0];
    if stdin.read(&mut byte)? == 0 {
        return Ok(false);
    }
    io::stdout().write_all(&[u8::from(storm::ask(target))])?;
    io::stdout().flush()?;
    Ok(true)
}

/// A process that starts the program at `path` in its place, which does the same, again and again. It
/// answers as a chain of forks does.
pub(crate) fn relay(path: &Path, target: SocketAddr) -> io::Result<()> {
    if !answer_if_asked(target)? {
        return Ok(());
    }
    let arguments = [
        "relay".into(),
        path.display().to_string(),
        target.to_string(),
    ];
    Err(children::Program::new(path, &arguments)?.replace())
}
