//! The world that the programs of the demo talk to.

use std::{
    io::Write as _,
    net::{Ipv6Addr, TcpListener, UdpSocket},
    thread,
};

use anyhow::Result;

use crate::sandbox::Network;

/// Ports that the world answers.
const TCP_PORTS: [u16; 3] = [22, 80, 443];
const UDP_PORTS: [u16; 2] = [53, 443];

/// Answers on the world's side, for as long as this process lives.
pub(crate) fn start(network: &Network) -> Result<()> {
    network.in_server(|| {
        for port in TCP_PORTS {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A client that has gone is no loss.
                    drop((&stream).write_all(b"welcome\n"));
                }
            });
        }
        for port in UDP_PORTS {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
            thread::spawn(move || {
                let mut datagram = [0; 512];
                while socket.recv(&mut datagram).is_ok() {}
            });
        }
        Ok(())
    })
}
