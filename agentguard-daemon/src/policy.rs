//! The policy of a host in the user's words, and its compiled form.
//!
//! [`source`] reads the files, [`load`] parses them to a [`Policy`], [`compile`] makes the tables
//! that the kernel looks up, [`review`] finds what is legal but hardly meant, and [`explain`] asks
//! the compiled policy about one connection.
#![forbid(unsafe_code)]

mod compile;
pub mod compiled;
pub mod condition;
pub mod diagnostic;
mod explain;
mod language;
pub mod limit;
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

use globset::Glob;
use ipnet::IpNet;
use jiff::Timestamp;

pub use self::{
    compile::{RANKS, compile},
    diagnostic::{Diagnostic, Diagnostics, Severity},
    explain::{ExplainedLimit, Explanation, explain},
    parse::load,
    review::review,
    schema::schema,
    source::{Source, Sources, read_directories, read_paths},
    target::{Target, TargetError},
};
use self::{
    compiled::{Class, Mode},
    limit::{Limits, QuotaTime},
    source::Place,
};
use crate::identity::context::Runtime;

/// What policy needs to know of the host that it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The name servers that the host asks: the built-in zone `resolvers`.
    pub resolvers: Vec<IpAddr>,
    /// Numbers of users, by name. The names that a policy has suffice.
    pub users: BTreeMap<String, u32>,
    /// Numbers of groups, by name. The names that a policy has suffice.
    pub groups: BTreeMap<String, u32>,
    /// The users that the group database lists as members of a group, both by number.
    pub members: BTreeMap<u32, BTreeSet<u32>>,
    /// The primary group of each such member.
    pub primary_groups: BTreeMap<u32, u32>,
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
    /// What marks the packets of a class, by the name of the class.
    pub classes: BTreeMap<String, Tagging>,
    /// Bits of the socket mark that are agentguard's.
    pub mark_mask: MarkMask,
    /// Who may start what by `agentguard run`, besides root.
    pub launchers: Vec<Launcher>,
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
    /// What an identity that has it is limited to.
    pub limits: Option<Limits>,
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
    /// Without these it covers nothing.
    pub requires: Option<Requires>,
    /// What passes by it is limited to.
    pub limits: Option<Limits>,
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
    /// Without these nobody becomes it.
    pub requires: Option<Requires>,
    /// Whether a unit may claim it in its own unit file.
    pub claimable_by_unit: bool,
    /// What marks its packets.
    pub tagging: Tagging,
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
    /// Over cgroups and users.
    pub conditions: Conditions,
    /// Over executables.
    pub executables: Option<Executables>,
    /// Its table in the file.
    pub place: Place,
}

/// What must hold besides, for an identity or a rule.
#[derive(Clone, Debug)]
pub struct Requires {
    /// Over cgroups and users.
    pub conditions: Conditions,
    /// The parent of the process runs one of these.
    pub parent_executables: Option<Vec<Glob>>,
    /// Its table in the file.
    pub place: Place,
}

/// Conditions on the cgroup and the user of a process; those that are there must all hold.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Over the name of the systemd unit.
    pub unit: Option<Glob>,
    /// Over the names of the slices that the cgroup is in.
    pub slice: Option<Glob>,
    /// Over the cgroup path.
    pub cgroup: Option<Glob>,
    /// Over the container.
    pub container: Option<Container>,
    /// The real user is one of these.
    pub users: Option<Vec<Account>>,
    /// The real group is one of these, or has the user as a member.
    pub groups: Option<Vec<Account>>,
    /// Whether somebody logged in is behind it.
    pub login: Option<bool>,
    /// Over the class of the login session.
    pub session_class: Option<Glob>,
}

/// Conditions on a container; those that are there must all hold.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// What runs it.
    pub runtime: Option<Runtime>,
    /// Over its id.
    pub id: Option<Glob>,
    /// Over its name.
    pub name: Option<Glob>,
    /// Over the name of its image.
    pub image: Option<Glob>,
    /// Over the values of its labels, by key.
    pub labels: BTreeMap<String, Glob>,
}

/// Which executables a selector means.
#[derive(Clone, Debug)]
pub struct Executables {
    /// The path of the executable or of the script matches one of these.
    pub globs: Vec<Glob>,
    /// The SHA-256 of the contents is one of these.
    pub sha256: Option<Vec<[u8; 32]>>,
    /// Whether the identity is kept when the process starts something that matches no selector.
    pub inherit: bool,
}

/// A user or a group, as the file names it.
#[derive(Clone, Debug)]
pub struct Account {
    /// By name or by number.
    pub name: AccountName,
    /// Where the file names it.
    pub place: Place,
}

/// How a user or group is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountName {
    /// By its name on the host.
    Name(String),
    /// By its number.
    Number(u32),
}

/// What marks packets for firewalls and shapers.
#[derive(Clone, Debug, Default)]
pub struct Tagging {
    /// The socket mark, and where the file says so.
    pub mark: Option<(u32, Place)>,
    /// Differentiated services code point, 0 to 63.
    pub dscp: Option<u8>,
}

/// Bits of the socket mark that are agentguard's.
#[derive(Clone, Debug)]
pub struct MarkMask {
    /// The bits.
    pub bits: u32,
    /// Where a file says so.
    pub place: Option<Place>,
}

impl Default for MarkMask {
    /// The highest byte: the lower ones are where Kubernetes, Tailscale and most others have theirs.
    fn default() -> Self {
        Self {
            bits: 0xff00_0000,
            place: None,
        }
    }
}

/// One `[[launchers]]` table: who may start what.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// Any of these users.
    pub users: Vec<Account>,
    /// Or who is in any of these groups.
    pub groups: Vec<Account>,
    /// Over the names of identities.
    pub identities: Vec<Glob>,
    /// Its table in the file.
    pub place: Place,
}

/// What holds for what has no identity.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Outside the agents slice.
    pub unknown: Effect,
    /// Inside the agents slice.
    pub unknown_agent: Effect,
    /// The systemd slice that agents live in.
    pub agents_slice: String,
    /// What identities of a class are limited to where their roles do not say, by its name.
    pub limits: BTreeMap<String, Limits>,
    /// Where the periods of quotas begin.
    pub quota_time: QuotaTime,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            unknown: Effect::Allow,
            unknown_agent: Effect::Deny,
            agents_slice: "agents.slice".to_owned(),
            limits: BTreeMap::new(),
            quota_time: QuotaTime::default(),
        }
    }
}

impl Identity {
    /// Its conditions and those of its selectors.
    fn conditions(&self) -> impl Iterator<Item = &Conditions> {
        let selectors = self.selectors.iter().map(|selector| &selector.conditions);
        selectors.chain(self.requires.iter().map(|requires| &requires.conditions))
    }
}

impl Role {
    /// All its rules.
    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.egress.iter().chain(&self.ingress)
    }
}

impl Policy {
    /// The users and groups that it names by name, for [`HostFacts`].
    #[must_use]
    pub fn account_names(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let rules = self.roles.values().flat_map(Role::rules);
        let conditions = self
            .identities
            .values()
            .flat_map(Identity::conditions)
            .chain(rules.filter_map(|rule| rule.requires.as_ref().map(|found| &found.conditions)))
            .collect::<Vec<_>>();
        let launchers = || self.launchers.iter();
        let users = conditions
            .iter()
            .flat_map(|conditions| conditions.users.iter().flatten())
            .chain(launchers().flat_map(|launcher| &launcher.users));
        let groups = conditions
            .iter()
            .flat_map(|conditions| conditions.groups.iter().flatten())
            .chain(launchers().flat_map(|launcher| &launcher.groups));
        (
            users.filter_map(Account::name).collect(),
            groups.filter_map(Account::name).collect(),
        )
    }

    /// The groups that it names by number.
    pub fn group_numbers(&self) -> BTreeSet<u32> {
        let rules = self.roles.values().flat_map(Role::rules);
        self.identities
            .values()
            .flat_map(Identity::conditions)
            .chain(rules.filter_map(|rule| rule.requires.as_ref().map(|found| &found.conditions)))
            .flat_map(|conditions| conditions.groups.iter().flatten())
            .filter_map(|account| match account.name {
                AccountName::Number(number) => Some(number),
                AccountName::Name(_) => None,
            })
            .collect()
    }

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

impl Account {
    fn name(&self) -> Option<&str> {
        match &self.name {
            AccountName::Name(name) => Some(name),
            AccountName::Number(_) => None,
        }
    }
}
