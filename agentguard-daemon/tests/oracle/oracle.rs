//! What a policy means, said a second time: random policies as text with a model beside it, and a
//! plain linear scan that judges by the model.
//!
//! It shares no code with the parser, the compiler or `decide`, and needs nothing but std, so that
//! other test packages can include it:
//!
//! ```ignore
//! #[path = "../../agentguard-daemon/tests/oracle/oracle.rs"]
//! mod oracle;
//! let mut dice = oracle::Dice::new(seed);
//! let policy = oracle::generate::policy(&mut dice);
//! let probe = oracle::generate::probe(&mut dice, &policy);
//! let answer = oracle::judge(&policy.identities[0], &probe);
//! ```
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "it is test code; each including test is a crate of its own and uses a part of it"
)]

pub mod generate;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A policy in the language, and what it means.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The text of the policy file.
    pub text: String,
    /// What it says of each identity, the two built-in ones first.
    pub identities: Vec<Identity>,
    /// Every prefix that it names: probes lie around them.
    pub nets: Vec<Net>,
    /// Every port that it names.
    pub ports: Vec<u16>,
}

/// What holds for one identity.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name; its selector is the cgroup `/NAME`.
    pub name: String,
    /// Whether only what a rule allows is allowed.
    pub restricted: bool,
    /// Whether denials take effect.
    pub enforce: bool,
    /// Seconds since 1970 at which it ends.
    pub expires: Option<i64>,
    /// Whether a role lets it make raw sockets.
    pub raw_sockets: bool,
    /// Its rules, in the order in which the first wins.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `ROLE.egress[INDEX]`.
    pub name: String,
    /// Whether it is about what the identity opens.
    pub egress: bool,
    /// Whether it denies.
    pub deny: bool,
    /// The remote addresses.
    pub nets: Vec<Net>,
    /// The ports; `None` is every port of every protocol.
    pub ports: Option<Vec<Ports>>,
}

/// A prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// Its first address.
    pub address: IpAddr,
    /// Bits that count.
    pub length: u32,
}

/// Ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// The first one.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP of either family.
    Icmp,
    /// None of these.
    Other,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The identity opens it.
    Egress,
    /// The remote end opens it.
    Ingress,
    /// The identity wants to listen.
    Bind,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// What is asked for.
    pub direction: Direction,
    /// Over which protocol.
    pub protocol: Protocol,
    /// The other end, as a socket would have it: IPv4 may come mapped.
    pub remote: IpAddr,
    /// Whether a call names it; else a packet carries it. The unspecified address in a call is the
    /// host itself, in a packet it is an address as any other.
    pub is_named: bool,
    /// Its port.
    pub remote_port: u16,
    /// The port at this end.
    pub local_port: u16,
    /// Seconds since 1970.
    pub now: i64,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `allow`, `deny` or `would-deny`.
    pub verdict: &'static str,
    /// The rule that decided.
    pub rule: Option<String>,
}

/// Judges one probe by looking at every rule.
pub fn judge(identity: &Identity, probe: &Probe) -> Answer {
    let refuse = |rule: Option<&Rule>| Answer {
        verdict: if identity.enforce {
            "deny"
        } else {
            "would-deny"
        },
        rule: rule.map(|rule| rule.name.clone()),
    };
    if identity.expires.is_some_and(|end| probe.now >= end) {
        return refuse(None);
    }
    if !identity.restricted {
        return Answer {
            verdict: "allow",
            rule: None,
        };
    }
    let mut found = decider(identity, probe, probe.direction);
    let answerable = matches!(probe.protocol, Protocol::Udp | Protocol::Icmp);
    if found.is_none() && answerable {
        found = match probe.direction {
            Direction::Egress => decider(identity, probe, Direction::Ingress),
            Direction::Ingress => decider(identity, probe, Direction::Egress),
            Direction::Bind => None,
        };
    }
    match found {
        Some(rule) if !rule.deny => Answer {
            verdict: "allow",
            rule: Some(rule.name.clone()),
        },
        other => refuse(other),
    }
}

/// Whether the identity is refused raw sockets, whatever they are for.
pub fn refuses_raw_sockets(identity: &Identity) -> bool {
    identity.restricted && identity.enforce && !identity.raw_sockets
}

/// The first rule that denies, else the first that allows.
fn decider<'a>(identity: &'a Identity, probe: &Probe, direction: Direction) -> Option<&'a Rule> {
    let matching = |rule: &&Rule| match direction {
        Direction::Egress => {
            rule.egress && reaches(rule, probe) && opens(rule, probe, probe.remote_port)
        }
        Direction::Ingress => {
            !rule.egress && reaches(rule, probe) && opens(rule, probe, probe.local_port)
        }
        Direction::Bind => {
            let for_all = everywhere(rule, false) && everywhere(rule, true);
            !rule.egress && (!rule.deny || for_all) && opens(rule, probe, probe.local_port)
        }
    };
    let rules = || identity.rules.iter().filter(matching);
    rules()
        .find(|rule| rule.deny)
        .or_else(|| rules().find(|rule| !rule.deny))
}

fn everywhere(rule: &Rule, v6: bool) -> bool {
    rule.nets
        .iter()
        .any(|net| net.length == 0 && net.address.is_ipv6() == v6)
}

fn reaches(rule: &Rule, probe: &Probe) -> bool {
    let unmapped = match probe.remote {
        IpAddr::V6(v6) if v6.segments()[..6] == [0, 0, 0, 0, 0, 0xffff] => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        other @ (IpAddr::V4(_) | IpAddr::V6(_)) => other,
    };
    let meant = if !probe.is_named {
        unmapped
    } else if unmapped == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else if unmapped == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    } else {
        unmapped
    };
    rule.nets.iter().any(|net| net.contains(meant))
}

fn opens(rule: &Rule, probe: &Probe, port: u16) -> bool {
    let Some(entries) = &rule.ports else {
        return true;
    };
    entries.iter().any(|entry| {
        entry.protocol == probe.protocol
            && (entry.protocol == Protocol::Icmp || (entry.first <= port && port <= entry.last))
    })
}

impl Net {
    /// Compares bit by bit.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (mine, theirs): (Vec<u8>, Vec<u8>) = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.octets().into(), b.octets().into()),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.octets().into(), b.octets().into()),
            _ => return false,
        };
        let bit = |bytes: &[u8], index: u32| bytes[index as usize / 8] & (0x80 >> (index % 8)) != 0;
        (0..self.length).all(|index| bit(&mine, index) == bit(&theirs, index))
    }
}

/// Random numbers that depend on the seed alone (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    /// True once in `n` throws.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
