//! The headers of a packet, read no further than policy needs.

use agentguard_common::{
    connection::{Address, Protocol},
    verdict::Reason,
};
use aya_ebpf::programs::SkBuffContext;

/// IPv6 extension headers that are followed before a packet counts as malformed.
const MAX_EXTENSIONS: u32 = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Where a packet comes from and goes to, by its outer headers.
#[derive(Clone, Copy)]
pub struct Headers {
    pub protocol: Protocol,
    pub source: Address,
    pub destination: Address,
    /// Host byte order; 0 where the protocol has no ports.
    pub source_port: u16,
    /// Host byte order; 0 where the protocol has no ports.
    pub destination_port: u16,
    /// Why the packet is refused whatever policy says: it goes elsewhere than its destination says,
    /// or what it is cannot be read. The protocol is then [`Protocol::Other`], without ports.
    pub objection: Option<Reason>,
}

/// An IPv4 header without options, and the ports behind it.
#[repr(C)]
struct Ipv4 {
    version_length: u8,
    service: u8,
    total_length: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    hops: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

#[repr(C)]
struct Ipv4Ports {
    header: Ipv4,
    ports: Ports,
}

#[repr(C)]
struct Ipv6 {
    version: [u8; 4],
    payload_length: [u8; 2],
    next: u8,
    hops: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ports {
    source: [u8; 2],
    destination: [u8; 2],
}

impl Headers {
    /// Reads the packet of a `cgroup_skb` program, which starts at the IP header.
    #[inline(always)]
    pub fn read(context: &SkBuffContext) -> Self {
        Self::read_either(context)
            .unwrap_or_else(|reason| Self::refused(Address::default(), Address::default(), reason))
    }

    #[inline(always)]
    fn read_either(context: &SkBuffContext) -> Result<Self, Reason> {
        let first: u8 = context.load(0).map_err(|_| Reason::Malformed)?;
        match first >> 4 {
            4 => Self::read_v4(context),
            6 => Self::read_v6(context),
            _ => Err(Reason::Malformed),
        }
    }

    #[inline(always)]
    fn read_v4(context: &SkBuffContext) -> Result<Self, Reason> {
        // One helper call for nearly every packet; only a bare IP packet of another protocol can be
        // shorter than header and ports.
        let (header, ports) = match context.load::<Ipv4Ports>(0) {
            Ok(Ipv4Ports { header, ports }) => (header, Some(ports)),
            Err(_) => (
                context.load::<Ipv4>(0).map_err(|_| Reason::Malformed)?,
                None,
            ),
        };
        let (source, destination) = (
            Address::from_v4(header.source),
            Address::from_v4(header.destination),
        );
        if header.version_length & 0xf != 5 {
            return Ok(Self::refused(source, destination, Reason::IpOptions));
        }
        // Behind the first fragment there is no transport header: what looks like ports is payload.
        let later_fragment = u16::from_be_bytes(header.fragment) & 0x1fff != 0;
        let protocol = if later_fragment {
            Protocol::Other
        } else {
            Protocol::from_ip(header.protocol)
        };
        Ok(Self::with_ports(protocol, source, destination, ports))
    }

    #[inline(always)]
    fn read_v6(context: &SkBuffContext) -> Result<Self, Reason> {
        let header: Ipv6 = context.load(0).map_err(|_| Reason::Malformed)?;
        let (source, destination) = (Address(header.source), Address(header.destination));
        let mut next = header.next;
        let mut offset = size_of::<Ipv6>();
        let mut protocol = None;
        for _ in 0..MAX_EXTENSIONS {
            match next {
                ROUTING => {
                    return Ok(Self::refused(source, destination, Reason::RoutingHeader));
                }
                HOP_BY_HOP | DESTINATION_OPTIONS | AUTHENTICATION => {
                    let [following, length]: [u8; 2] =
                        context.load(offset).map_err(|_| Reason::Malformed)?;
                    // RFC 4302 counts in 4 octets from 2, RFC 8200 in 8 from 1.
                    offset += if next == AUTHENTICATION {
                        (usize::from(length) + 2) * 4
                    } else {
                        (usize::from(length) + 1) * 8
                    };
                    next = following;
                }
                FRAGMENT => {
                    let [following, _, high, low]: [u8; 4] =
                        context.load(offset).map_err(|_| Reason::Malformed)?;
                    if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                        protocol = Some(Protocol::Other);
                        break;
                    }
                    offset += 8;
                    next = following;
                }
                transport => {
                    protocol = Some(Protocol::from_ip(transport));
                    break;
                }
            }
        }
        let Some(protocol) = protocol else {
            return Ok(Self::refused(source, destination, Reason::Malformed));
        };
        let ports = match protocol {
            Protocol::Tcp | Protocol::Udp => context.load(offset).ok(),
            Protocol::Icmp | Protocol::Other => None,
        };
        Ok(Self::with_ports(protocol, source, destination, ports))
    }

    #[inline(always)]
    fn with_ports(
        protocol: Protocol,
        source: Address,
        destination: Address,
        ports: Option<Ports>,
    ) -> Self {
        let (source_port, destination_port) = match (protocol, ports) {
            (Protocol::Icmp | Protocol::Other, _) => (0, 0),
            (Protocol::Tcp | Protocol::Udp, Some(ports)) => (
                u16::from_be_bytes(ports.source),
                u16::from_be_bytes(ports.destination),
            ),
            (Protocol::Tcp | Protocol::Udp, None) => {
                return Self::refused(source, destination, Reason::Malformed);
            }
        };
        Self {
            protocol,
            source,
            destination,
            source_port,
            destination_port,
            objection: None,
        }
    }

    #[inline(always)]
    const fn refused(source: Address, destination: Address, reason: Reason) -> Self {
        Self {
            protocol: Protocol::Other,
            source,
            destination,
            source_port: 0,
            destination_port: 0,
            objection: Some(reason),
        }
    }
}
