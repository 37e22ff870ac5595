//! What the compiler hands on: tables for the kernel, and the names behind their numbers.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
};

use agentguard_common::{
    cgroup::Rank,
    connection::{Address, Protocol},
    fact::NO_CHOICE,
    identity::{IdentityRecord, NO_DSCP},
    limit::Scope,
    policy::{RuleEntry, RuleKey, Tables},
};
use jiff::Timestamp;

use super::{
    condition::Condition,
    limit::{LimitSet, QuotaTime},
    selection::{Choice, Selection},
};

/// One compiled policy, not yet bound to a generation of the kernel.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Class of each listed prefix; the longest prefix that holds an address decides.
    pub addresses: Vec<AddressClass>,
    /// Class of each TCP and UDP port.
    pub ports: PortClasses,
    /// The verdict cells, sorted by key.
    pub rules: Vec<(RuleKey, RuleEntry)>,
    /// The built-in ones in the order of [`BUILT_IN`], then the named ones sorted by name, then
    /// variants of these.
    pub identities: Vec<CompiledIdentity>,
    /// Where each rule stands: rule number `n` is at index `n - 1`.
    pub rule_sources: Vec<RuleSource>,
    /// `[defaults] agents-slice`.
    pub agents_slice: String,
    /// How processes become identities, besides by cgroup.
    pub selection: Selection,
    /// Who may start what by `agentguard run`, besides root.
    pub launchers: Vec<Launcher>,
    /// By identity, rule and scope.
    pub limits: Vec<CompiledLimits>,
    /// Where the periods of quotas begin.
    pub quota_time: QuotaTime,
}

/// The limits of one identity, or of one rule for one identity.
#[derive(Clone, Debug)]
pub struct CompiledLimits {
    /// Index of the identity in [`Compiled::identities`]: never a variant, they share it.
    pub identity: usize,
    /// The rule that they are of, or `None`: of all that the identity does.
    pub rule: Option<u32>,
    /// What is counted apart.
    pub per: Scope,
    /// What they allow.
    pub limits: LimitSet,
    /// Where they are written; several where roles are merged.
    pub locations: Vec<Location>,
}

/// Index of `unknown` in [`Compiled::identities`].
pub const UNKNOWN: usize = 0;
/// Index of `unknown-agent` in [`Compiled::identities`].
pub const UNKNOWN_AGENT: usize = 1;
/// Index of `human` in [`Compiled::identities`].
pub const HUMAN: usize = 2;
/// Index of `cron` in [`Compiled::identities`].
pub const CRON: usize = 3;
/// Index of `service` in [`Compiled::identities`].
pub const SERVICE: usize = 4;
/// The built-in identities, in their order.
pub const BUILT_IN: [&str; 5] = ["unknown", "unknown-agent", "human", "cron", "service"];

/// A prefix and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressClass {
    /// Network address, host bits zero; IPv4 in mapped form.
    pub address: Address,
    /// Bits of `address` that count, 0 to 128: an IPv4 `/n` is `96 + n`.
    pub length: u8,
    /// Its class.
    pub class: u32,
}

/// Class of each port, by protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortClasses {
    /// 65,536 classes.
    pub tcp: Vec<u16>,
    /// 65,536 classes.
    pub udp: Vec<u16>,
}

/// A place in a policy file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Location {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// A rule as the user knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSource {
    /// Name for people and logs: `invoice-sync.egress[0]`.
    pub name: String,
    /// Where it is written.
    pub location: Location,
}

/// Class of an identity.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// An AI agent.
    Agent,
    /// A build or test job.
    Ci,
    /// A scheduled job.
    Cron,
    /// A long-running service.
    Service,
    /// A person.
    Human,
    /// Nobody knows.
    Unknown,
}

/// Whether denials take effect.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They do.
    Enforce,
    /// They are recorded, and everything passes.
    Audit,
}

/// One identity, ready for the kernel.
#[derive(Clone, Debug)]
pub struct CompiledIdentity {
    /// Its name, unique in the policy.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// Who answers for it.
    pub owner: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// Where it runs: `prod`, `staging`, …
    pub environment: Option<String>,
    /// Names of its roles, sorted.
    pub roles: Vec<String>,
    /// Whether denials take effect.
    pub mode: Mode,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// How processes become it; empty for the built-in identities.
    pub selectors: Vec<Selector>,
    /// `FLAG_*` bits of its record.
    pub flags: u32,
    /// Its profile; 0 has no rules.
    pub profile: u32,
    /// Its rules that have conditions.
    pub conditional: Vec<ConditionalRule>,
    /// Variants of it whose rules have conditions; the first whose conditions hold is judged instead.
    pub variants: Vec<Choice>,
    /// Index of the identity that this is a variant of: the same one, with more rules.
    pub variant_of: Option<usize>,
    /// What marks its sockets.
    pub tags: Tags,
    /// Where it is written; `None` for a built-in identity that no file mentions.
    pub location: Option<Location>,
}

impl CompiledIdentity {
    /// Its kernel record, ending at `expires_ns` of the boot clock.
    #[must_use]
    pub fn record(&self, expires_ns: u64) -> IdentityRecord {
        IdentityRecord {
            expires_ns,
            profile: self.profile,
            flags: self.flags,
            variants: NO_CHOICE,
            mark: self.tags.mark,
            mark_mask: self.tags.mark_mask,
            traffic_class: self.tags.dscp.map_or(NO_DSCP, |dscp| u32::from(dscp) << 2),
            ..IdentityRecord::default()
        }
    }
}

/// A rule that holds under conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionalRule {
    /// Its number: its source is at this index less one of [`Compiled::rule_sources`].
    pub number: u32,
    /// All of these facts hold.
    pub required: u64,
    /// None of these facts holds.
    pub forbidden: u64,
}

/// What packets of an identity carry for firewalls and shapers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// Bits of the socket mark that are set; none outside `mark_mask`.
    pub mark: u32,
    /// Bits of the socket mark that are agentguard's; 0 leaves the mark alone.
    pub mark_mask: u32,
    /// Differentiated services code point, 0 to 63.
    pub dscp: Option<u8>,
}

/// One `match` table: all that it has must hold.
#[derive(Clone, Debug)]
pub struct Selector {
    /// As policy writes it.
    pub text: String,
    /// Its rank.
    pub rank: Rank,
    /// Its place among all selectors: of the same rank and the same cgroup, the lowest is meant.
    pub order: u32,
    /// What must hold for one and the same cgroup; empty where any cgroup will do.
    pub here: Vec<Condition>,
    /// The executables that it means, if it is about executables.
    pub executables: Option<Executables>,
    /// All of these facts hold; those of `requires` are among them.
    pub required: u64,
    /// None of these facts holds.
    pub forbidden: u64,
    /// Where it is written.
    pub location: Location,
}

/// Executables of a selector.
#[derive(Clone, Debug)]
pub struct Executables {
    /// Any of these matches the path.
    pub globs: Vec<globset::Glob>,
    /// Kept over the next executable that matches nothing.
    pub inherit: bool,
}

/// Who may start what by `agentguard run`, besides root.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// Any of these users.
    pub users: BTreeSet<u32>,
    /// Or who is in any of these groups.
    pub groups: BTreeSet<u32>,
    /// Any of these matches the name of the identity.
    pub identities: Vec<globset::GlobMatcher>,
    /// Where it is written.
    pub location: Location,
}

impl Launcher {
    /// Whether `user`, who is in `groups`, may start `identity`.
    #[must_use]
    pub fn permits(&self, user: u32, groups: &[u32], identity: &str) -> bool {
        let who = self.users.contains(&user) || groups.iter().any(|id| self.groups.contains(id));
        who && self.identities.iter().any(|glob| glob.is_match(identity))
    }
}

impl Class {
    /// As policy writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Ci => "ci",
            Self::Cron => "cron",
            Self::Service => "service",
            Self::Human => "human",
            Self::Unknown => "unknown",
        }
    }
}

impl Compiled {
    /// The identity of this name, built-in ones included.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<usize> {
        let mut identities = self.identities.iter();
        identities.position(|identity| identity.name == name)
    }

    /// A selector.
    #[must_use]
    pub fn selector(&self, identity: usize, number: usize) -> Option<&Selector> {
        self.identities.get(identity)?.selectors.get(number)
    }

    /// The identity that people know `index` by: of a variant, the one that it is a variant of.
    #[must_use]
    pub fn base(&self, index: usize) -> usize {
        self.identities
            .get(index)
            .and_then(|identity| identity.variant_of)
            .unwrap_or(index)
    }
}

/// A compiled policy as the kernel would look it up: for `explain` and for tests.
#[derive(Debug)]
pub struct CompiledTables<'a> {
    compiled: &'a Compiled,
    addresses: HashMap<(u8, Address), u32>,
    lengths: Vec<u8>,
    rules: HashMap<RuleKey, RuleEntry>,
}

impl<'a> CompiledTables<'a> {
    /// Indexes `compiled`.
    #[must_use]
    pub fn new(compiled: &'a Compiled) -> Self {
        let addresses: HashMap<_, _> = compiled
            .addresses
            .iter()
            .map(|entry| ((entry.length, entry.address), entry.class))
            .collect();
        let mut lengths: Vec<u8> = compiled
            .addresses
            .iter()
            .map(|entry| entry.length)
            .collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self {
            compiled,
            addresses,
            lengths,
            rules: compiled.rules.iter().copied().collect(),
        }
    }
}

impl Tables for CompiledTables<'_> {
    fn address_class(&self, address: &Address) -> u32 {
        let bits = u128::from_be_bytes(address.0);
        self.lengths
            .iter()
            .find_map(|&length| {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                self.addresses
                    .get(&(length, Address((bits & mask).to_be_bytes())))
                    .copied()
            })
            .unwrap_or(0)
    }

    fn port_class(&self, protocol: Protocol, port: u16) -> u16 {
        let classes = match protocol {
            Protocol::Tcp => &self.compiled.ports.tcp,
            Protocol::Udp => &self.compiled.ports.udp,
            Protocol::Icmp | Protocol::Other => return 0,
        };
        classes.get(usize::from(port)).copied().unwrap_or(0)
    }

    fn rule(&self, key: &RuleKey) -> Option<RuleEntry> {
        self.rules.get(key).copied()
    }
}
