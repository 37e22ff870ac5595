//! The compiled policy: its keys, and the one order in which they are looked up.
//!
//! Every address falls in one address class, every port in one port class. Class 0 is everything
//! that no rule names. A cell that is not in the table holds the default of the identity.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::connection::{Address, Connection, Direction, Protocol};

/// Number of a rule in one generation. 0 is no rule: the identity's default decided.
pub const NO_RULE: u32 = 0;

/// One cell of the compiled policy.
#[derive(
    Clone,
    Copy,
    Debug,
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
#[repr(C)]
pub struct RuleKey {
    /// Profile of the identity.
    pub profile: u32,
    /// Address class; 0 for [`Direction::Bind`].
    pub address_class: u32,
    /// Port class; 0 for protocols without ports.
    pub port_class: u16,
    /// [`Direction`] as a number.
    pub direction: u8,
    /// [`Protocol`] as a number.
    pub protocol: u8,
}

/// What a cell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleEntry {
    /// Number of the rule that decides.
    pub rule: u32,
    /// Whether it allows.
    pub allow: bool,
}

impl RuleEntry {
    /// As the kernel map holds it: a plain number, since Linux 6.1 takes a map whose values are
    /// structures for another kind of map than its twin made without type information
    /// (`bpf_map_meta_equal` compares where a timer would be), and refuses to swap it in.
    #[inline(always)]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self.rule as u64) | (self.allow as u64) << 32
    }

    /// From [`RuleEntry::to_word`].
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper half is cut on purpose"
    )]
    pub const fn from_word(word: u64) -> Self {
        Self {
            rule: word as u32,
            allow: word >> 32 == 1,
        }
    }
}

/// The compiled tables of one generation: maps in the kernel, vectors in the daemon.
pub trait Tables {
    /// Class of the longest prefix that holds `address`, or 0.
    fn address_class(&self, address: &Address) -> u32;
    /// Class of a TCP or UDP port, or 0.
    fn port_class(&self, protocol: Protocol, port: u16) -> u16;
    /// The cell at `key`.
    fn rule(&self, key: &RuleKey) -> Option<RuleEntry>;
}

/// The rule that decides `connection` for identities of `profile`, if one does.
///
/// UDP and ICMP have no opening that a packet would show, so a datagram may pass as the answer to
/// one that could have come the other way: where the asked direction has no rule, the opposite one
/// is asked with the ports exchanged. A deny rule in the asked direction is final.
#[inline(always)]
pub fn find_rule(tables: &impl Tables, profile: u32, connection: &Connection) -> Option<RuleEntry> {
    let address_class = match connection.direction {
        Direction::Bind => 0,
        Direction::Egress | Direction::Ingress => tables.address_class(&connection.remote),
    };
    let asked = rule_of(
        tables,
        profile,
        connection,
        connection.direction,
        address_class,
    );
    if asked.is_some() {
        return asked;
    }
    let opposite = match (connection.protocol, connection.direction) {
        (Protocol::Udp | Protocol::Icmp, Direction::Egress) => Direction::Ingress,
        (Protocol::Udp | Protocol::Icmp, Direction::Ingress) => Direction::Egress,
        (Protocol::Tcp | Protocol::Other, _) | (_, Direction::Bind) => return None,
    };
    rule_of(tables, profile, connection, opposite, address_class)
}

#[inline(always)]
fn rule_of(
    tables: &impl Tables,
    profile: u32,
    connection: &Connection,
    direction: Direction,
    address_class: u32,
) -> Option<RuleEntry> {
    let port = match direction {
        Direction::Egress => connection.remote_port,
        Direction::Ingress | Direction::Bind => connection.local_port,
    };
    let port_class = match connection.protocol {
        Protocol::Tcp | Protocol::Udp => tables.port_class(connection.protocol, port),
        Protocol::Icmp | Protocol::Other => 0,
    };
    tables.rule(&RuleKey {
        profile,
        address_class,
        port_class,
        direction: direction as u8,
        protocol: connection.protocol as u8,
    })
}

// As in `audit.rs`.
const _: () = {
    assert!(size_of::<RuleKey>() == 12);
    assert!(
        RuleEntry::from_word(
            RuleEntry {
                rule: u32::MAX,
                allow: true
            }
            .to_word()
        )
        .rule
            == u32::MAX
    );
};
