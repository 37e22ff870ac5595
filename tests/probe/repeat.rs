//! Opens a flow to each of some peers, and does with it what opens no other.

use std::{io, net::SocketAddr};

use socket2::{Domain, Socket, Type};

/// Datagrams to each peer of an unconnected socket.
const ROUNDS: usize = 10;

pub(crate) fn run(what: &str, peers: &[SocketAddr]) -> io::Result<()> {
    match what {
        "tcp" => peers.iter().try_for_each(|&peer| {
            let socket = open(peer, Type::STREAM)?;
            socket.connect(&peer.into())?;
            // It is connected already.
            match socket.connect(&peer.into()) {
                Err(error) if error.raw_os_error() == Some(libc::EISCONN) => {}
                other => other?,
            }
            socket.send(b"x").map(drop)
        }),
        "tcp-refused" => peers.iter().try_for_each(|&peer| {
            let closed = SocketAddr::new(peer.ip(), 1);
            match open(peer, Type::STREAM)?.connect(&closed.into()) {
                Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => Ok(()),
                other => Err(io::Error::other(format!("{other:?}"))),
            }
        }),
        "udp-connect" => peers.iter().try_for_each(|&peer| {
            let socket = open(peer, Type::DGRAM)?;
            for _ in 0..ROUNDS {
                socket.connect(&peer.into())?;
                socket.send(b"x")?;
            }
            Ok(())
        }),
        "udp-send" => {
            let socket = open(peers[0], Type::DGRAM)?;
            for _ in 0..ROUNDS {
                for &peer in peers {
                    socket.send_to(b"x", &peer.into())?;
                }
            }
            Ok(())
        }
        _ => Err(io::Error::other("unknown way")),
    }
}

fn open(peer: SocketAddr, kind: Type) -> io::Result<Socket> {
    Socket::new(Domain::for_address(peer), kind, None)
}
