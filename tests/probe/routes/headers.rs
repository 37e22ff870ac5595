//! Headers that name one destination to the hooks and another to the wire.

use std::net::IpAddr;

use agentguard_tests::{probe::Spec, socket::set_option_bytes};
use socket2::{Domain, Socket, Type};

use super::tcp;
use crate::failure::{Failure, Step};

/// Segment routing, RFC 8754. The only routing header that needs no capability.
const SEGMENT_ROUTING: u8 = 4;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const NO_OPERATION: u8 = 1;

pub(super) fn tcp_routing_header(spec: &Spec) -> Result<(), Failure> {
    let socket = tcp::open(Domain::IPV6)?;
    add_routing_header(spec, &socket)?;
    send_syn(spec, &socket)
}

pub(super) fn tcp_source_route(spec: &Spec) -> Result<(), Failure> {
    let socket = tcp::open(Domain::IPV4)?;
    add_source_route(spec, &socket)?;
    send_syn(spec, &socket)
}

pub(super) fn udp_routing_header(spec: &Spec) -> Result<(), Failure> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).step("socket")?;
    add_routing_header(spec, &socket)?;
    send_datagram(spec, &socket)
}

pub(super) fn udp_source_route(spec: &Spec) -> Result<(), Failure> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).step("socket")?;
    add_source_route(spec, &socket)?;
    send_datagram(spec, &socket)
}

/// Nobody answers: the world has no use for such headers. The opening packet is what counts.
fn send_syn(spec: &Spec, socket: &Socket) -> Result<(), Failure> {
    match socket.connect(&spec.decoy.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result.step("connect"),
    }
}

fn send_datagram(spec: &Spec, socket: &Socket) -> Result<(), Failure> {
    socket
        .send_to(spec.marker.as_bytes(), &spec.decoy.into())
        .step("sendto")
        .map(drop)
}

fn add_routing_header(spec: &Spec, socket: &Socket) -> Result<(), Failure> {
    let IpAddr::V6(first_hop) = spec.to.ip() else {
        panic!("a routing header is of IPv6");
    };
    // Next header, length in 8 bytes without the first, type, segments left, last entry, flags,
    // tag. The kernel writes the last hop into segment 0.
    let mut header = vec![0, 4, SEGMENT_ROUTING, 1, 1, 0, 0, 0];
    header.extend([0; 16]);
    header.extend(first_hop.octets());
    set_option_bytes(socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header).step("setsockopt")
}

fn add_source_route(spec: &Spec, socket: &Socket) -> Result<(), Failure> {
    let IpAddr::V4(first_hop) = spec.to.ip() else {
        panic!("a source route is of IPv4");
    };
    // Type, length, and the offset of the next hop, counted from 1.
    let mut option = vec![NO_OPERATION, LOOSE_SOURCE_ROUTE, 7, 4];
    option.extend(first_hop.octets());
    set_option_bytes(socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &option).step("setsockopt")
}
