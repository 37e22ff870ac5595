//! A flow that lasts: bytes go out and come back at the harness's word.

use std::{
    io::{self, BufRead, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use agentguard_tests::probe::{DATAGRAM_BYTES, Report, Talk, Transport};

use crate::{
    failure::{Failure, Step},
    say,
};

/// How long anything may take to come back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Both kinds of flow.
enum Flow {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// Opens the flow, announces it, and has an exchange for each line but `close`.
pub(crate) fn run(talk: &Talk) -> Result<(), Failure> {
    let mut flow = open(talk)?;
    let port = flow.local_port().step("getsockname")?;
    say(&Report::Ready { port });
    for line in io::stdin().lock().lines() {
        if line.step("read stdin")? == "close" {
            break;
        }
        for _ in 0..talk.rounds {
            flow.send(talk.send).step("send")?;
            flow.receive(talk.receive).step("receive")?;
        }
        say(&Report::Ready { port });
    }
    flow.close().step("close")
}

fn open(talk: &Talk) -> Result<Flow, Failure> {
    Ok(match talk.transport {
        Transport::TcpConnect => connected(TcpStream::connect(talk.peer).step("connect")?)?,
        Transport::TcpAccept => {
            let listener = TcpListener::bind(talk.peer).step("bind")?;
            let port = listener.local_addr().step("getsockname")?.port();
            say(&Report::Ready { port });
            let (stream, _) = listener.accept().step("accept")?;
            connected(stream)?
        }
        Transport::UdpConnect => {
            let mut all = talk.peer;
            all.set_port(0);
            all.set_ip(match all.ip() {
                std::net::IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                std::net::IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            });
            let socket = UdpSocket::bind(all).step("bind")?;
            socket.connect(talk.peer).step("connect")?;
            socket
                .set_read_timeout(Some(ANSWER_TIMEOUT))
                .step("set timeout")?;
            Flow::Udp(socket)
        }
    })
}

fn connected(stream: TcpStream) -> Result<Flow, Failure> {
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(ANSWER_TIMEOUT)).step("set timeout")?;
    }
    Ok(Flow::Tcp(stream))
}

impl Flow {
    fn local_port(&self) -> io::Result<u16> {
        let address = match self {
            Self::Tcp(stream) => stream.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        };
        address.map(|address| address.port())
    }

    fn send(&mut self, bytes: usize) -> io::Result<()> {
        let payload = vec![b'.'; bytes];
        match self {
            Self::Tcp(stream) => stream.write_all(&payload),
            Self::Udp(socket) => payload
                .chunks(DATAGRAM_BYTES)
                .try_for_each(|datagram| socket.send(datagram).map(drop)),
        }
    }

    fn receive(&mut self, bytes: usize) -> io::Result<()> {
        let mut payload = vec![0; bytes];
        match self {
            Self::Tcp(stream) => stream.read_exact(&mut payload),
            Self::Udp(socket) => {
                let mut left = bytes;
                while left > 0 {
                    left = left.saturating_sub(socket.recv(&mut payload)?);
                }
                Ok(())
            }
        }
    }

    /// A TCP flow ends when both sides have said so.
    fn close(self) -> io::Result<()> {
        if let Self::Tcp(mut stream) = self {
            stream.shutdown(std::net::Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())?;
        }
        Ok(())
    }
}
