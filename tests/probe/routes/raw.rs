//! Sockets below UDP and TCP.

use std::net::IpAddr;

use agentguard_tests::{probe::Spec, socket::set_option};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    failure::{Failure, Step},
    packet,
};

/// A protocol number for experiments, RFC 3692.
const EXPERIMENTAL: i32 = 253;

pub(super) fn ping(spec: &Spec) -> Result<(), Failure> {
    send(
        spec,
        Type::DGRAM,
        icmp_of(spec),
        &packet::echo_request(spec.to.ip(), spec.marker.as_bytes()),
    )
}

pub(super) fn icmp(spec: &Spec) -> Result<(), Failure> {
    send(
        spec,
        Type::RAW,
        icmp_of(spec),
        &packet::echo_request(spec.to.ip(), spec.marker.as_bytes()),
    )
}

pub(super) fn udp(spec: &Spec) -> Result<(), Failure> {
    let datagram = packet::datagram(packet::SOURCE_PORT, spec.to.port(), spec.marker.as_bytes());
    send(spec, Type::RAW, Protocol::UDP, &datagram)
}

pub(super) fn other(spec: &Spec) -> Result<(), Failure> {
    let protocol = Protocol::from(EXPERIMENTAL);
    send(spec, Type::RAW, protocol, spec.marker.as_bytes())
}

pub(super) fn header(spec: &Spec) -> Result<(), Failure> {
    // On an IPv4 socket of this protocol the header is always the caller's.
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    let socket = open(spec, Type::RAW, protocol)?;
    if spec.to.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1).step("setsockopt")?;
    }
    socket
        .send_to(&packet::whole(spec), &portless(spec))
        .step("sendto")
        .map(drop)
}

fn icmp_of(spec: &Spec) -> Protocol {
    match spec.to.ip() {
        IpAddr::V4(_) => Protocol::ICMPV4,
        IpAddr::V6(_) => Protocol::ICMPV6,
    }
}

fn open(spec: &Spec, kind: Type, protocol: Protocol) -> Result<Socket, Failure> {
    Socket::new(Domain::for_address(spec.to), kind, Some(protocol)).step("socket")
}

fn send(spec: &Spec, kind: Type, protocol: Protocol, payload: &[u8]) -> Result<(), Failure> {
    let socket = open(spec, kind, protocol)?;
    socket
        .send_to(payload, &portless(spec))
        .step("sendto")
        .map(drop)
}

/// A raw IPv6 socket refuses an address with a port.
fn portless(spec: &Spec) -> SockAddr {
    std::net::SocketAddr::new(spec.to.ip(), 0).into()
}
