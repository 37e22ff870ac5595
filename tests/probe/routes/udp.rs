//! Ways to send a datagram.

use std::{mem, os::fd::AsRawFd};

use agentguard_tests::{
    network::CLIENT_LINK,
    probe::Spec,
    socket::{check, set_option},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::tcp::{dissolve, map};
use crate::failure::{Failure, Step};

const SEGMENT_BYTES: usize = 200;
const SEGMENTS: usize = 5;

pub(super) fn sendto_connected(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    socket.connect(&spec.decoy.into()).step("connect decoy")?;
    sendto(spec, &socket)
}

pub(super) fn reconnect(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    socket.connect(&spec.decoy.into()).step("connect decoy")?;
    connect_and_send(spec, &socket)
}

pub(super) fn dissolved_sendto(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    socket.connect(&spec.decoy.into()).step("connect decoy")?;
    dissolve(&socket)?;
    sendto(spec, &socket)
}

pub(super) fn sendmmsg(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    let mut addresses = [SockAddr::from(spec.decoy), SockAddr::from(spec.to)];
    let mut payload = libc::iovec {
        iov_base: spec.marker.as_ptr().cast_mut().cast(),
        iov_len: spec.marker.len(),
    };
    let mut messages = addresses.each_mut().map(|address| {
        // SAFETY: all zeroes is an empty message.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_namelen = address.len();
        message.msg_hdr.msg_iov = &raw mut payload;
        message.msg_hdr.msg_iovlen = 1;
        message
    });
    let mut left = messages.as_mut_slice();
    // The call stops at the first message that fails and hides why: ask again from there.
    while !left.is_empty() {
        let count = u32::try_from(left.len()).expect("two");
        // SAFETY: the messages, their addresses and the payload live through the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), left.as_mut_ptr(), count, 0) };
        let sent = check(sent).step("sendmmsg")?;
        left = &mut left[usize::try_from(sent).expect("checked")..];
    }
    Ok(())
}

pub(super) fn corked(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    let (first, rest) = spec.marker.as_bytes().split_at(4);
    socket
        .send_to_with_flags(first, &spec.to.into(), libc::MSG_MORE)
        .step("sendto")?;
    socket.send_to(rest, &spec.to.into()).step("sendto")?;
    Ok(())
}

pub(super) fn mapped_sendto(spec: &Spec) -> Result<(), Failure> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).step("socket")?;
    socket
        .send_to(spec.marker.as_bytes(), &map(spec.to).into())
        .step("sendto")
        .map(drop)
}

pub(super) fn mapped_connect(spec: &Spec) -> Result<(), Failure> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).step("socket")?;
    socket.connect(&map(spec.to).into()).step("connect")?;
    socket.send(spec.marker.as_bytes()).step("send").map(drop)
}

pub(super) fn segmented(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    let bytes = i32::try_from(SEGMENT_BYTES).expect("small");
    set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, bytes).step("setsockopt")?;
    let mut payload = spec.marker.clone().into_bytes();
    payload.resize(SEGMENT_BYTES * SEGMENTS, b'.');
    socket
        .send_to(&payload, &spec.to.into())
        .step("sendto")
        .map(drop)
}

pub(super) fn bound_to_device(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    socket
        .bind_device(Some(CLIENT_LINK.as_bytes()))
        .step("setsockopt")?;
    sendto(spec, &socket)
}

pub(super) fn marked(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    socket.set_mark(1).step("setsockopt")?;
    sendto(spec, &socket)
}

pub(super) fn broadcast(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    socket.set_broadcast(true).step("setsockopt")?;
    sendto(spec, &socket)
}

pub(super) fn multicast(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    if spec.to.is_ipv6() {
        let link = nix::net::if_::if_nametoindex(CLIENT_LINK).step("find the link")?;
        socket.set_multicast_if_v6(link).step("setsockopt")?;
    }
    sendto(spec, &socket)
}

pub(super) fn lite(spec: &Spec) -> Result<(), Failure> {
    let protocol = Protocol::from(libc::IPPROTO_UDPLITE);
    let socket =
        Socket::new(Domain::for_address(spec.to), Type::DGRAM, Some(protocol)).step("socket")?;
    sendto(spec, &socket)
}

fn open(spec: &Spec) -> Result<Socket, Failure> {
    Socket::new(Domain::for_address(spec.to), Type::DGRAM, None).step("socket")
}

fn sendto(spec: &Spec, socket: &Socket) -> Result<(), Failure> {
    socket
        .send_to(spec.marker.as_bytes(), &spec.to.into())
        .step("sendto")
        .map(drop)
}

fn connect_and_send(spec: &Spec, socket: &Socket) -> Result<(), Failure> {
    socket.connect(&spec.to.into()).step("connect")?;
    socket.send(spec.marker.as_bytes()).step("send").map(drop)
}
