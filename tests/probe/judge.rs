//! Asks the kernel for many verdicts, and answers each with the `errno` of the call.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::AsFd,
};

use agentguard_tests::judge::{ANSWER_BYTES, Call, QUESTION_BYTES, Question};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{LIFETIME_SECONDS, packet};

/// How long a TCP connection may take to come about.
const CONNECT_TIMEOUT_MS: u16 = 2_000;

/// A protocol number for experiments, RFC 3692.
const EXPERIMENTAL: i32 = 253;

/// UDP sockets that wait for their second question.
type Kept = HashMap<u32, Socket>;

/// Reads batches (a 32-bit count, then the questions) and answers each.
pub(crate) fn run() -> io::Result<()> {
    let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    let mut kept = Kept::new();
    let mut count = [0; 4];
    while stdin.read_exact(&mut count).is_ok() {
        // SAFETY: `alarm` only sets a timer of this process.
        unsafe { libc::alarm(LIFETIME_SECONDS) };
        let count = u32::from_ne_bytes(count) as usize;
        let mut questions = vec![0; count * QUESTION_BYTES];
        stdin.read_exact(&mut questions)?;
        let mut answers = Vec::with_capacity(count * ANSWER_BYTES);
        for errno in answer(&mut kept, &questions)? {
            answers.extend(errno.to_ne_bytes());
        }
        stdout.write_all(&answers)?;
        stdout.flush()?;
    }
    Ok(())
}

fn answer(kept: &mut Kept, questions: &[u8]) -> io::Result<Vec<i32>> {
    let mut connecting = Vec::new();
    let mut answers = Vec::new();
    for bytes in questions.chunks_exact(QUESTION_BYTES) {
        let question = Question::from_bytes(bytes).expect("the harness writes questions");
        let result = if question.call == Call::TcpConnect {
            let socket = open(&question)?;
            let result = socket.connect(&remote(&question));
            connecting.push((answers.len(), socket));
            result
        } else {
            ask(kept, &question)?
        };
        answers.push(errno_of(result));
    }
    for (index, socket) in connecting {
        if answers[index] == libc::EINPROGRESS {
            let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut ready, CONNECT_TIMEOUT_MS)? > 0 {
                answers[index] = errno_of(socket.take_error()?.map_or(Ok(()), Err));
            }
        }
    }
    Ok(answers)
}

/// The outer error is one that no policy could be blamed for.
fn ask(kept: &mut Kept, question: &Question) -> io::Result<io::Result<()>> {
    let marker = question.marker();
    let payload = marker.as_bytes();
    let address = question.remote.ip();
    let (from, to) = (question.local_port, question.remote.port());
    Ok(match question.call {
        // `connect` binds the socket, and a local port is part of what the next question would ask:
        // each has a socket of its own.
        Call::UdpConnect | Call::TcpConnect => open(question)?.connect(&remote(question)),
        Call::TcpBind | Call::UdpBind => open(question)?.bind(&here(question)),
        Call::TcpKeep => {
            let socket = open(question)?;
            socket.set_nonblocking(false)?;
            let result = socket.connect(&remote(question));
            kept.insert(question.serial, socket);
            result
        }
        Call::UdpKeep => {
            let socket = open(question)?;
            socket.set_reuse_port(true)?;
            socket.bind(&here(question))?;
            let result = socket.connect(&remote(question));
            kept.insert(question.serial, socket);
            result
        }
        Call::UdpSendKept => {
            let socket = kept.remove(&question.serial).expect("it was kept");
            socket.send(payload).map(drop)
        }
        Call::Ping | Call::RawIcmp => throw(question, &packet::echo_request(address, payload)),
        Call::RawUdp => throw(question, &packet::datagram(from, to, payload)),
        Call::RawTcp => throw(question, &packet::segment(from, to, payload)),
        Call::RawOther => throw(question, payload),
    })
}

/// Sends one packet through a socket that no hook judges before the packet itself.
fn throw(question: &Question, payload: &[u8]) -> io::Result<()> {
    let socket = open(question)?;
    // A raw IPv6 socket refuses an address with a port.
    let portless = Question {
        remote: SocketAddr::new(question.remote.ip(), 0),
        ..*question
    };
    socket.send_to(payload, &remote(&portless)).map(drop)
}

fn open(question: &Question) -> io::Result<Socket> {
    let is_v4 = question.remote.is_ipv4();
    let icmp = if is_v4 {
        Protocol::ICMPV4
    } else {
        Protocol::ICMPV6
    };
    let (kind, protocol) = match question.call {
        Call::TcpConnect | Call::TcpKeep | Call::TcpBind => (Type::STREAM, Protocol::TCP),
        Call::UdpConnect | Call::UdpKeep | Call::UdpSendKept | Call::UdpBind => {
            (Type::DGRAM, Protocol::UDP)
        }
        Call::Ping => (Type::DGRAM, icmp),
        Call::RawIcmp => (Type::RAW, icmp),
        Call::RawUdp => (Type::RAW, Protocol::UDP),
        Call::RawTcp => (Type::RAW, Protocol::TCP),
        Call::RawOther => (Type::RAW, Protocol::from(EXPERIMENTAL)),
    };
    let socket = Socket::new(Domain::for_address(question.remote), kind, Some(protocol))?;
    if kind == Type::STREAM {
        socket.set_nonblocking(true)?;
    } else {
        // Without it the kernel itself answers EACCES for broadcast addresses.
        socket.set_broadcast(true)?;
    }
    Ok(socket)
}

fn remote(question: &Question) -> SockAddr {
    match question.remote {
        SocketAddr::V4(_) => question.remote.into(),
        // A link-local address needs a link: loopback's index is 1 in every namespace.
        SocketAddr::V6(to) => SocketAddrV6::new(*to.ip(), to.port(), 0, 1).into(),
    }
}

/// All addresses of this side, at the local port.
fn here(question: &Question) -> SockAddr {
    let all: IpAddr = if question.remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(all, question.local_port).into()
}

fn errno_of(result: io::Result<()>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
}
