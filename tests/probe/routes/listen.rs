//! Ways to be reached.

use std::{io, net::SocketAddr, os::fd::AsFd};

use agentguard_tests::probe::Spec;
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, Socket, Type};

use crate::{
    failure::{Failure, Step},
    say,
};

/// How long a peer may take.
const PEER_TIMEOUT_MS: u16 = 1_500;

pub(super) fn bound(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec, Type::STREAM)?;
    socket.bind(&here(spec).into()).step("bind")?;
    socket.listen(8).step("listen")?;
    wait(&socket, "accept")?;
    socket.accept().step("accept").map(drop)
}

pub(super) fn unbound(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec, Type::STREAM)?;
    socket.listen(8).step("listen")?;
    wait(&socket, "accept")?;
    socket.accept().step("accept").map(drop)
}

pub(super) fn receive(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec, Type::DGRAM)?;
    socket.bind(&here(spec).into()).step("bind")?;
    wait(&socket, "recv")
}

fn open(spec: &Spec, kind: Type) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::for_address(spec.to), kind, None).step("socket")?;
    socket.set_reuse_address(true).step("setsockopt")?;
    Ok(socket)
}

/// All addresses of this side, at the port of `to`.
fn here(spec: &Spec) -> SocketAddr {
    match spec.to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], spec.to.port()).into(),
        SocketAddr::V6(_) => ([0; 8], spec.to.port()).into(),
    }
}

/// Announces the port and waits until there is something to take.
fn wait(socket: &Socket, step: &'static str) -> Result<(), Failure> {
    let port = socket
        .local_addr()
        .step("getsockname")?
        .as_socket()
        .map_or(0, |address| address.port());
    say(&agentguard_tests::probe::Report::Ready { port });
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ready, PEER_TIMEOUT_MS).step("poll")? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)).step(step);
    }
    Ok(())
}
