//! A process that connects on behalf of whoever asks it over a unix socket.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
};

use agentguard_tests::probe::{PROXIED, Report};

use crate::say;

/// Serves one client: a line `ADDRESS MARKER` has the marker sent there.
pub(crate) fn run(path: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    say(&Report::Ready { port: 0 });
    let (mut client, _) = listener.accept()?;
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line)?;
    let (to, marker) = line
        .trim_end()
        .split_once(' ')
        .ok_or_else(|| io::Error::other("the client said something else"))?;
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    TcpStream::connect(to)?.write_all(marker.as_bytes())?;
    client.write_all(&[PROXIED])
}
