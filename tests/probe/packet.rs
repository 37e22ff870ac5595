//! Packets that a probe writes byte by byte.

use std::net::IpAddr;

use agentguard_tests::{
    network::{CLIENT_V4, CLIENT_V6},
    probe::Spec,
};

/// Where packets say that they come from that could come from anywhere.
pub(crate) const SOURCE_PORT: u16 = 40_000;
const UDP_HEADER_BYTES: usize = 8;
const V4_HEADER_BYTES: usize = 20;

/// An ICMP echo request.
pub(crate) fn echo_request(to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let kind = match to {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 128,
    };
    let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1];
    message.extend(payload);
    if to.is_ipv4() {
        // The kernel adds that of ICMPv6, and that of ping sockets.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// A UDP header, without a checksum, and its payload.
pub(crate) fn datagram(from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(UDP_HEADER_BYTES + payload.len()).expect("short");
    let mut datagram = Vec::new();
    datagram.extend(from_port.to_be_bytes());
    datagram.extend(to_port.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A TCP header that opens a connection, without a checksum, and its payload.
pub(crate) fn segment(from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(from_port.to_be_bytes());
    segment.extend(to_port.to_be_bytes());
    // Sequence, acknowledgement, header length and SYN, window, checksum, urgent pointer.
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

/// A datagram with the marker of `spec`, and its IP header.
pub(crate) fn whole(spec: &Spec) -> Vec<u8> {
    let payload = datagram(SOURCE_PORT, spec.to.port(), spec.marker.as_bytes());
    let mut packet = match spec.to.ip() {
        IpAddr::V4(to) => {
            let length = u16::try_from(V4_HEADER_BYTES + payload.len()).expect("short");
            let mut header = vec![0x45, 0];
            header.extend(length.to_be_bytes());
            header.extend([0, 1, 0, 0, 64, 17, 0, 0]);
            header.extend(CLIENT_V4.octets());
            header.extend(to.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            header
        }
        IpAddr::V6(to) => {
            let length = u16::try_from(payload.len()).expect("short");
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([17, 64]);
            header.extend(CLIENT_V6.octets());
            header.extend(to.octets());
            header
        }
    };
    packet.extend(payload);
    packet
}

/// The internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            let low = pair.get(1).copied().unwrap_or(0);
            u32::from(u16::from_be_bytes([pair[0], low]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}
