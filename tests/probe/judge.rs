//! Asks the kernel for many verdicts: UDP `connect` runs the whole hook and sends nothing.

use std::{
    io::{self, Read, Write},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// Bytes of a question: an IPv6 address and a port, both in network order. IPv4 is mapped.
const QUESTION_BYTES: usize = 18;

/// Reads batches (a 32-bit count, then the questions) and answers each with a byte a question:
/// 1 where the kernel refused for policy, else 0.
pub(crate) fn run() -> io::Result<()> {
    let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    let mut count = [0; 4];
    while stdin.read_exact(&mut count).is_ok() {
        let count = u32::from_ne_bytes(count) as usize;
        let mut questions = vec![0; count * QUESTION_BYTES];
        stdin.read_exact(&mut questions)?;
        let answers = questions
            .chunks_exact(QUESTION_BYTES)
            .map(|question| is_refused(question).map(u8::from))
            .collect::<io::Result<Vec<u8>>>()?;
        stdout.write_all(&answers)?;
        stdout.flush()?;
    }
    Ok(())
}

fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, None)?;
    // Without it the kernel itself answers EACCES for broadcast addresses.
    socket.set_broadcast(true)?;
    Ok(socket)
}

/// Each question has a socket of its own: `connect` binds it, and a local port is part of what the
/// next one would ask.
fn is_refused(question: &[u8]) -> io::Result<bool> {
    let (address, port) = question.split_at(16);
    let address: [u8; 16] = address.try_into().expect("a question has 18 bytes");
    let port = u16::from_be_bytes(port.try_into().expect("a question has 18 bytes"));
    let address = Ipv6Addr::from(address);
    let (domain, target) = match address.to_ipv4_mapped() {
        Some(address) => (
            Domain::IPV4,
            SockAddr::from(SocketAddr::new(address.into(), port)),
        ),
        // A link-local address needs a link: loopback's index is 1 in every namespace.
        None => (
            Domain::IPV6,
            SockAddr::from(SocketAddrV6::new(address, port, 0, 1)),
        ),
    };
    let socket = open(domain)?;
    Ok(matches!(
        socket
            .connect(&target)
            .map_err(|error| error.raw_os_error()),
        Err(Some(libc::EACCES | libc::EPERM))
    ))
}
