//! Ways to open a TCP connection.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use agentguard_tests::{network::CLIENT_LINK, probe::Spec, socket::set_option};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::{
    failure::{Failure, Step},
    routes::plain::CONNECT_TIMEOUT,
};

pub(super) fn nonblocking(spec: &Spec) -> Result<(), Failure> {
    let socket = open(Domain::for_address(spec.to))?;
    socket.set_nonblocking(true).step("set nonblocking")?;
    match socket.connect(&spec.to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        result => result.step("connect")?,
    }
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let timeout = u16::try_from(CONNECT_TIMEOUT.as_millis()).expect("short");
    if poll(&mut ready, timeout).step("poll")? == 0 {
        return Err(io::Error::from_raw_os_error(libc::EINPROGRESS)).step("connect");
    }
    if let Some(error) = socket.take_error().step("take error")? {
        return Err(error).step("connect");
    }
    socket.send(spec.marker.as_bytes()).step("send").map(drop)
}

pub(super) fn mapped(spec: &Spec) -> Result<(), Failure> {
    let socket = open(Domain::IPV6)?;
    connect_and_send(spec, &socket, map(spec.to))
}

pub(super) fn fast_open_sendto(spec: &Spec) -> Result<(), Failure> {
    let socket = open(Domain::for_address(spec.to))?;
    socket
        .send_to_with_flags(spec.marker.as_bytes(), &spec.to.into(), libc::MSG_FASTOPEN)
        .step("sendto")
        .map(drop)
}

pub(super) fn fast_open_connect(spec: &Spec) -> Result<(), Failure> {
    let socket = open(Domain::for_address(spec.to))?;
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1).step("setsockopt")?;
    connect_and_send(spec, &socket, spec.to)
}

pub(super) fn bound_to_device(spec: &Spec) -> Result<(), Failure> {
    let socket = open(Domain::for_address(spec.to))?;
    socket
        .bind_device(Some(CLIENT_LINK.as_bytes()))
        .step("setsockopt")?;
    connect_and_send(spec, &socket, spec.to)
}

pub(super) fn marked(spec: &Spec) -> Result<(), Failure> {
    let socket = open(Domain::for_address(spec.to))?;
    socket.set_mark(1).step("setsockopt")?;
    connect_and_send(spec, &socket, spec.to)
}

pub(super) fn reconnect(spec: &Spec) -> Result<(), Failure> {
    let socket = open(Domain::for_address(spec.to))?;
    socket.connect(&spec.decoy.into()).step("connect decoy")?;
    dissolve(&socket)?;
    connect_and_send(spec, &socket, spec.to)
}

pub(super) fn multipath(spec: &Spec) -> Result<(), Failure> {
    let socket = Socket::new(
        Domain::for_address(spec.to),
        Type::STREAM,
        Some(Protocol::MPTCP),
    )
    .step("socket")?;
    socket
        .set_write_timeout(Some(CONNECT_TIMEOUT))
        .step("set timeout")?;
    connect_and_send(spec, &socket, spec.to)
}

/// A blocking socket whose `connect` does not take for ever.
pub(super) fn open(domain: Domain) -> Result<Socket, Failure> {
    let socket = Socket::new(domain, Type::STREAM, None).step("socket")?;
    socket
        .set_write_timeout(Some(CONNECT_TIMEOUT))
        .step("set timeout")?;
    Ok(socket)
}

/// The plain end of most routes.
pub(super) fn connect_and_send(
    spec: &Spec,
    socket: &Socket,
    to: SocketAddr,
) -> Result<(), Failure> {
    socket.connect(&to.into()).step("connect")?;
    socket.send(spec.marker.as_bytes()).step("send").map(drop)
}

/// `connect` to `AF_UNSPEC`: the socket forgets its peer.
pub(super) fn dissolve(socket: &Socket) -> Result<(), Failure> {
    let storage = SockAddrStorage::zeroed();
    // SAFETY: all zeroes is an address of the family `AF_UNSPEC`, and the length is within.
    let nobody = unsafe { SockAddr::new(storage, 16) };
    socket.connect(&nobody).step("dissolve")
}

/// The IPv4-mapped form of an IPv4 address.
pub(super) fn map(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), address.port()).into(),
        IpAddr::V6(_) => address,
    }
}
