//! What the daemon and its clients say to each other: one JSON line asks, JSON lines answer.
#![forbid(unsafe_code)]

pub mod access;
pub mod client;
pub mod server;

use std::{ops::AddAssign, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    audit::Balance,
    history::HistoryStatus,
    policy::compiled::{Class, Location, Mode},
    sink::SinkStatus,
};

/// Bytes that a request may have, its newline included.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the daemon is.
    Status {},
    /// Whom the cgroups with processes belong to.
    Ps {},
    /// To load the policy anew.
    Reload {
        /// Whether to answer when it is in force, or else at once.
        #[serde(default)]
        wait: bool,
    },
    /// To put the asking process into a cgroup of its own, as an identity.
    Launch {
        /// Which.
        identity: String,
        /// Why, for the record.
        #[serde(default)]
        reason: Option<String>,
    },
    /// To put a record into the history that each sink gets.
    TestSink {
        /// Of which one the record is to tell.
        sink: String,
    },
    /// To have a sink get records again.
    ReplaySink {
        /// Which.
        sink: String,
        /// All after this number.
        after: u64,
    },
}

/// A verdict as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictName {
    /// It passed.
    Allow,
    /// It was refused.
    Deny,
    /// It passed because the identity is in audit mode.
    WouldDeny,
}

impl VerdictName {
    /// As it stands in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would-deny",
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
pub enum Response {
    /// To `status`.
    Status(Box<Status>),
    /// To `ps`, in the order of the paths.
    Cgroups {
        /// Those that belong to somebody by a selector, or have processes.
        cgroups: Vec<CgroupOwner>,
    },
    /// It has begun.
    Accepted {},
    /// To `reload`: the new policy is in force.
    Reloaded {
        /// Its generation.
        generation: u64,
    },
    /// To `reload`: the old policy stays in force.
    Rejected {
        /// The generation of the old one.
        generation: u64,
        /// What is wrong with the new one, for people.
        detail: String,
    },
    /// To `launch`: the asking process is in its cgroup.
    Launched {
        /// Its path below the cgroup root.
        cgroup: String,
    },
    /// The request cannot be served.
    Error {
        /// Which way.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
}

/// Why a request cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// It is none.
    BadRequest,
    /// Not for this user.
    NotPermitted,
    /// It names what is not there, or is too long.
    BadArgument,
    /// It took the client too long.
    TooSlow,
    /// There are too many clients, or the daemon is stopping.
    Unavailable,
    /// Something that should work did not.
    Failed,
}

/// How the daemon is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The cgroup that everything judged lives below.
    pub cgroup_root: PathBuf,
    /// Generation in force.
    pub generation: u64,
    /// The policy files in force; none if that generation was adopted and could not be read anew.
    pub policy_files: Vec<PathBuf>,
    /// Attempts to load a policy that failed, since the daemon started.
    pub policies_rejected: u64,
    /// Why the last attempt to load a policy failed, if it did.
    pub last_rejection: Option<String>,
    /// What the kernel lacks.
    pub degraded: Vec<String>,
    /// The attached programs.
    pub programs: Vec<String>,
    /// Each identity in force.
    pub identities: Vec<IdentityStatus>,
    /// Each limit in force.
    #[serde(default)]
    pub limits: Vec<LimitStatus>,
    /// The identities in force by class.
    pub totals: Vec<ClassTotal>,
    /// Agents, CI jobs, cron scripts and services together.
    pub automation: Totals,
    /// People together.
    pub people: Totals,
    /// Events that the kernel dropped or that did not decode, since the daemon started.
    pub events_lost: u64,
    /// Of those, events that did not decode.
    pub events_undecodable: u64,
    /// Numbers of events that did not come, though later ones of their identity and CPU did: as many as were dropped.
    #[serde(default)]
    pub events_missing: u64,
    /// Reports of new cgroups that did not decode, since the daemon started.
    pub cgroup_events_lost: u64,
    /// Labels of processes that found the map full, since the programs were first loaded.
    pub process_labels_lost: u64,
    /// Reports of execs that found the ring full, since the programs were first loaded.
    pub process_events_lost: u64,
    /// What is kept of events.
    pub history: HistoryStatus,
    /// Where events go besides.
    pub sinks: Vec<SinkStatus>,
}

/// An identity and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdentityStatus {
    /// Its number in the kernel.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// Whether denials take effect.
    pub mode: Mode,
    /// Who answers for it.
    pub owner: Option<String>,
    /// When it ends.
    pub expires: Option<String>,
    /// Exact totals since the programs were first loaded.
    pub counters: Totals,
    /// Flows that are open now.
    #[serde(default)]
    pub open: u64,
    /// Where its events went since the daemon started.
    pub events: Balance,
}

/// A limit, and what is used of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LimitStatus {
    /// Whose it is.
    pub identity: String,
    /// The class of that.
    pub class: Class,
    /// The rule that it is of, if it is of one.
    pub rule: Option<String>,
    /// What is counted apart: `identity` for nothing, `process`, `cgroup` or `destination`.
    pub per: String,
    /// Its key in policy.
    pub limit: String,
    /// As policy writes it.
    pub configured: String,
    /// What the numbers count.
    pub unit: LimitUnit,
    /// What is taken now: of the burst, of the open flows, or of the bytes of the period. Where
    /// something is counted apart, by the one that has taken most.
    pub used: u64,
    /// The most that can be.
    pub most: u64,
    /// What is left.
    pub headroom: u64,
    /// New flows or packets that were over it, since the programs were first loaded.
    pub refused: u64,
    /// IP bytes of those packets.
    pub refused_bytes: u64,
    /// When the period of a quota ends.
    pub period_ends: Option<Timestamp>,
    /// How many processes, cgroups or destinations are counted apart.
    pub counted_apart: Option<u64>,
    /// Whether it is only recorded.
    pub is_audit: bool,
}

/// What the numbers of a limit count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitUnit {
    /// Flows.
    Flows,
    /// IP bytes.
    Bytes,
}

/// All identities of one class together.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClassTotal {
    /// The class.
    pub class: Class,
    /// How many identities.
    pub identities: u64,
    /// Their sum.
    pub counters: Totals,
}

/// What the kernel counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    /// Flows allowed.
    pub allowed: u64,
    /// Flows, packets, binds and sockets refused.
    pub denied: u64,
    /// What audit mode let pass.
    pub would_deny: u64,
    /// Flows closed.
    pub closed: u64,
    /// IP bytes sent by closed flows.
    pub bytes_out: u64,
    /// IP bytes received by closed flows.
    pub bytes_in: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.would_deny += other.would_deny;
        self.closed += other.closed;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
    }
}

/// Whom a cgroup belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CgroupOwner {
    /// Path below the cgroup root, escaped as in audit records, and whole.
    pub path: String,
    /// Its id.
    pub id: u64,
    /// Name of the identity.
    pub identity: String,
    /// Its class.
    pub class: Class,
    /// Why.
    pub why: Why,
    /// Whom its processes are instead where a condition on them holds; the first one counts.
    #[serde(default)]
    pub alternatives: Vec<Alternative>,
    /// The processes in it.
    pub pids: Vec<u32>,
}

/// Whom some processes of a cgroup are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Alternative {
    /// Name of the identity.
    pub identity: String,
    /// The conditions in the words of the policy.
    pub when: Vec<String>,
}

/// Why a cgroup belongs to somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Why {
    /// A selector matches it.
    Selector {
        /// The selector as policy writes it.
        selector: String,
        /// Where.
        location: Location,
    },
    /// `agentguard run` made it.
    Launch,
    /// It is the slice of the agents.
    AgentsSlice,
    /// It is what a built-in identity stands for: a login, a scheduled job or a service.
    BuiltIn,
    /// It belongs to whom this cgroup above it belongs to.
    Inherited {
        /// Its path, escaped likewise.
        from: String,
    },
    /// Nothing above it belongs to anybody.
    Default,
}
