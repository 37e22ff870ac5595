//! Opens, shares, breaks and closes sockets at random, and keeps still when it is told to.

use std::{
    io::{self, BufRead, Write},
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::children::fork_child;

/// Sockets that one process has at most.
const MOST: usize = 16;

/// A port where nobody listens.
const CLOSED_PORT: u16 = 1;

/// For each line with a number: does so many things, and answers with a line.
pub(crate) fn run(seed: u64, live: SocketAddr) -> io::Result<()> {
    let mut random = Random(seed | 1);
    let mut sockets = Vec::new();
    for line in io::stdin().lock().lines() {
        let count: u32 = line?.trim().parse().map_err(io::Error::other)?;
        for _ in 0..count {
            act(&mut random, &mut sockets, live)?;
        }
        writeln!(io::stdout(), "{}", sockets.len())?;
    }
    Ok(())
}

fn act(random: &mut Random, sockets: &mut Vec<Socket>, live: SocketAddr) -> io::Result<()> {
    if sockets.len() >= MOST {
        sockets.swap_remove(random.below(MOST));
    }
    match random.below(12) {
        0 | 1 => {
            let socket = tcp()?;
            // Over the limit, most of the time.
            drop(socket.connect(&live.into()));
            sockets.push(socket);
        }
        2 => {
            let socket = tcp()?;
            socket.set_nonblocking(true)?;
            drop(socket.connect(&live.into()));
            // Once more, while it is under way or done.
            drop(socket.connect(&live.into()));
            sockets.push(socket);
        }
        3 => {
            let socket = tcp()?;
            let closed = SocketAddr::new(live.ip(), CLOSED_PORT);
            drop(socket.connect(&closed.into()));
            // A socket that failed may try again, and is then another flow.
            drop(socket.connect(&live.into()));
            sockets.push(socket);
        }
        4 => {
            // There is no way there: the call fails before anything is sent.
            let nowhere = SocketAddr::new(Ipv4Addr::BROADCAST.into(), live.port());
            drop(tcp()?.connect(&nowhere.into()));
        }
        5 => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            for port in 0..random.below(4) {
                let port = live.port() + u16::try_from(port).unwrap_or(0);
                drop(socket.connect(&SocketAddr::new(live.ip(), port).into()));
                drop(socket.send(b"x"));
            }
            sockets.push(socket);
        }
        6 => {
            if let Some(socket) = random.of(sockets) {
                drop(socket.shutdown(std::net::Shutdown::Both));
            }
        }
        7 => {
            if let Some(socket) = random.of(sockets) {
                let other = socket.try_clone()?;
                let at = random.below(sockets.len());
                sockets[at] = other;
            }
        }
        8 => {
            if let Some(socket) = random.of(sockets) {
                // With a reset instead of an end.
                drop(socket.set_linger(Some(Duration::ZERO)));
            }
            let at = random.below(sockets.len().max(1));
            if at < sockets.len() {
                sockets.swap_remove(at);
            }
        }
        9 => {
            // A child shares all of them, and goes away with them or without.
            let wait = Duration::from_micros(random.below(500) as u64);
            let closes = random.below(2) == 0;
            let descriptors: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
            fork_child(|| {
                if closes {
                    for &descriptor in &descriptors {
                        // SAFETY: the child ends without touching what owns them.
                        unsafe { libc::close(descriptor) };
                    }
                }
                thread::sleep(wait);
                0
            })?;
        }
        10 => {
            // Nobody has connected it.
            sockets.push(tcp()?);
        }
        _ => {
            let at = random.below(sockets.len().max(1));
            if at < sockets.len() {
                sockets.swap_remove(at);
            }
        }
    }
    Ok(())
}

fn tcp() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, None)
}

/// Xorshift: the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % bound
    }

    fn of<'a>(&mut self, sockets: &'a [Socket]) -> Option<&'a Socket> {
        if sockets.is_empty() {
            return None;
        }
        sockets.get(self.below(sockets.len()))
    }
}
