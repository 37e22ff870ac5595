//! The policy of a host in the user's words, and its compiled form.
//!
//! [`source`] reads the files, [`load`] parses them to a [`Policy`], [`compile`] makes the tables
//! that the kernel looks up, [`review`] finds what is legal but hardly meant, and [`explain`] asks
//! the compiled policy about one connection.
#![forbid(unsafe_code)]

mod compile;
pub mod compiled;
pub mod diagnostic;
mod explain;
mod parse;
mod review;
mod schema;
pub mod selection;
pub mod source;
mod spelling;
mod target;
mod zone;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use ipnet::IpNet;
use jiff::Timestamp;

pub use self::{
    compile::compile,
    diagnostic::{Diagnostic, Diagnostics, Severity},
    explain::{Explanation, explain},
    parse::load,
    review::review,
    schema::schema,
    source::{Source, Sources, read_directories, read_paths},
    target::{Target, TargetError},
};
use self::{
    compiled::{Class, Mode},
    source::Place,
};

/// What policy needs to know of the host that it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The name servers that the host asks: the built-in zone `resolvers`.
    pub resolvers: Vec<IpAddr>,
}

/// A whole policy, free of errors: every name in it is defined.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The zones that files define, by name. The built-in ones are not among them.
    pub zones: BTreeMap<String, Zone>,
    /// By name.
    pub roles: BTreeMap<String, Role>,
    /// By name.
    pub identities: BTreeMap<String, Identity>,
    /// For what has no identity.
    pub defaults: Defaults,
}

/// Named destinations.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name in the file.
    pub place: Place,
    /// In the order of the file.
    pub addresses: Vec<IpNet>,
}

/// Named rules.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name in the file.
    pub place: Place,
    /// Whether it grants raw sockets.
    pub raw_sockets: bool,
    /// What may be reached, in the order of the file.
    pub egress: Vec<Rule>,
    /// Who may reach it, in the order of the file.
    pub ingress: Vec<Rule>,
}

/// One rule of a role. What it covers is what some of its zones or addresses holds **and** some of
/// its ports matches.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its table in the file.
    pub place: Place,
    /// Names of zones, built-in ones among them, and where the rule names them.
    pub zones: BTreeMap<String, Place>,
    /// Addresses given in the rule itself.
    pub addresses: Vec<IpNet>,
    /// Ports and protocols; `None` is all of them.
    pub ports: Option<Vec<PortMatch>>,
    /// What happens to what it covers.
    pub effect: Effect,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Allows.
    Allow,
    /// Denies, whatever other rules allow.
    Deny,
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortMatch {
    /// TCP ports.
    Tcp(RangeInclusive<u16>),
    /// UDP ports.
    Udp(RangeInclusive<u16>),
    /// ICMP and ICMPv6.
    Icmp,
}

/// A named actor.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name in the file.
    pub place: Place,
    /// Its class.
    pub class: Class,
    /// Who answers for it.
    pub owner: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// Where it runs.
    pub environment: Option<String>,
    /// Names of its roles, and where it names them.
    pub roles: BTreeMap<String, Place>,
    /// Whether denials take effect.
    pub mode: Mode,
    /// When it ends.
    pub expires: Option<Expiry>,
    /// How processes become it: any of these.
    pub selectors: Vec<Selector>,
}

/// When an identity ends.
#[derive(Clone, Debug)]
pub struct Expiry {
    /// The first instant at which it has ended.
    pub at: Timestamp,
    /// Where the file says so.
    pub place: Place,
}

/// One `match` table: all that it has must match.
#[derive(Clone, Debug)]
pub struct Selector {
    /// Over the name of the systemd unit.
    pub systemd_unit: Option<globset::Glob>,
    /// Over the cgroup path.
    pub cgroup: Option<globset::Glob>,
    /// Its table in the file.
    pub place: Place,
}

/// What holds for what has no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Outside the agents slice.
    pub unknown: Effect,
    /// Inside the agents slice.
    pub unknown_agent: Effect,
    /// The systemd slice that agents live in.
    pub agents_slice: String,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            unknown: Effect::Allow,
            unknown_agent: Effect::Deny,
            agents_slice: "agents.slice".to_owned(),
        }
    }
}

impl Policy {
    /// The roles that some identity has, by name: only these have an effect.
    fn roles_in_use(&self) -> impl Iterator<Item = (&str, &Role)> {
        let used: BTreeSet<&String> = self
            .identities
            .values()
            .flat_map(|identity| identity.roles.keys())
            .collect();
        self.roles
            .iter()
            .filter(move |(name, _)| used.contains(name))
            .map(|(name, role)| (name.as_str(), role))
    }
}
