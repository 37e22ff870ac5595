//! One connection as policy sees it: who is at the other end, over which protocol and port.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// An address of either family, IPv4 as `::ffff:a.b.c.d`, in network byte order.
///
/// One form for both families means that an IPv4 address reached over an IPv6 socket is judged as
/// the IPv4 address that it is.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::from_v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// The IPv4-mapped form of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// From four words as the kernel keeps an IPv6 address: each in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words;
        let high = (a as u64) | (b as u64) << 32;
        let low = (c as u64) | (d as u64) << 32;
        Self(((high as u128) | (low as u128) << 64).to_le_bytes())
    }

    /// The address as one number, so that comparing two needs no loop in the kernel.
    #[inline(always)]
    const fn bits(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.bits() >> 32 == 0xffff
    }

    /// The address that a call which names this one really reaches: Linux takes the unspecified
    /// address as the host itself (`ip_route_output_key_hash_rcu`, `ip6_datagram_connect`).
    ///
    /// Not for what a packet carries: a ping socket sends to `::` by the default route.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> Self {
        match self.bits() {
            0 => Self::LOOPBACK_V6,
            0xffff_0000_0000 => Self::LOOPBACK_V4,
            _ => self,
        }
    }
}

/// Which way a flow was opened.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(u8)]
pub enum Direction {
    /// The identity opened it to a remote address.
    Egress = 0,
    /// A remote address opened it to the identity.
    Ingress = 1,
    /// The identity asks to listen on a local port.
    Bind = 2,
}

/// Protocols that policy tells apart.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, and MPTCP where a socket falls back to it.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// ICMP and ICMPv6.
    Icmp = 2,
    /// Anything else, and fragments without a transport header. Only a rule without `ports` covers it.
    Other = 3,
}

impl Protocol {
    /// From the protocol number of an IP header.
    #[inline(always)]
    pub const fn from_ip(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            1 | 58 => Self::Icmp,
            _ => Self::Other,
        }
    }
}

/// What a verdict is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Connection {
    /// Who opened it.
    pub direction: Direction,
    /// Its protocol.
    pub protocol: Protocol,
    /// The other end as a packet has it, so [`Address::destination`] of what a call names; ignored
    /// for [`Direction::Bind`].
    pub remote: Address,
    /// Port at the other end, host byte order; 0 where the protocol has none.
    pub remote_port: u16,
    /// Port at this end, host byte order; 0 if not bound yet.
    pub local_port: u16,
}

// Without padding: the kernel programs hand it to functions that may read every byte of it.
const _: () = assert!(size_of::<Connection>() == 22);
