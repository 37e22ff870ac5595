//! What a record tells: an enriched event of the kernel, or news of the daemon itself.

use std::{net::IpAddr, sync::Arc};

use agentguard_common::{
    audit::{AuditEvent, EventKind},
    connection::Address,
    identity::AgentId,
    verdict::Verdict,
};
use jiff::{SignedDuration, Timestamp};

use super::{checkpoint::Checkpoint, escape::Untrusted, names::Actor};
use crate::policy::compiled::RuleSource;

/// The wall time that belongs to a time of the boot clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootClock {
    boot_time: Timestamp,
}

impl BootClock {
    /// `boot_time` is the wall time at which the boot clock stood at zero.
    #[must_use]
    pub const fn new(boot_time: Timestamp) -> Self {
        Self { boot_time }
    }

    /// Wall time of `time_ns`; the boot time itself where that is beyond what can be told.
    #[must_use]
    pub fn wall(&self, time_ns: u64) -> Timestamp {
        i64::try_from(time_ns)
            .ok()
            .and_then(|ns| {
                self.boot_time
                    .checked_add(SignedDuration::from_nanos(ns))
                    .ok()
            })
            .unwrap_or(self.boot_time)
    }
}

/// What is known of the process behind an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// What it ran when it made the call, `None` where the kernel's word of that was lost.
    pub program: Option<Arc<Program>>,
    /// SHA-256 of the executable, if policy asks for it and it is one that policy names.
    pub sha256: Option<[u8; 32]>,
    /// Where it was, `None` where that is not known.
    pub place: Option<Arc<Place>>,
    /// The conditions that do not hold: of identities that it would be rather, and of its rules.
    pub unmet: Arc<[Unmet]>,
}

/// A cgroup, as records tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its path below the cgroup root.
    pub cgroup: Untrusted,
    /// The unit of the system manager that it is in.
    pub unit: Option<Untrusted>,
    /// What tells two runs of one unit or container apart: the unit's invocation id where systemd
    /// gave one, else the cgroup, of which each run has its own, and whose number does not repeat.
    pub run: String,
    /// The container that it is in.
    pub container: Option<Container>,
}

/// A container, as records tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The engine: `podman`.
    pub runtime: &'static str,
    /// Its id.
    pub id: Untrusted,
    /// Its name, if the engine told.
    pub name: Option<Untrusted>,
    /// Its image, if the engine told.
    pub image: Option<Untrusted>,
}

/// Conditions that do not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// Of what: ``identity `bot` `` or ``rule `r.egress[0]` ``.
    pub of: String,
    /// The conditions in the words of the policy.
    pub conditions: Vec<String>,
}

/// What a process runs, and how it came to that. The kernel told it at `exec`: it is not read from
/// `/proc`, where a process that ends at once leaves nothing and one that goes on can lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Path of the executable.
    pub exe: Option<Untrusted>,
    /// Path of the script that it interprets.
    pub script: Option<Untrusted>,
    /// The user who logged in, where somebody did.
    pub login_uid: Option<u32>,
    /// The audit session.
    pub session_id: Option<u32>,
    /// The parent, its parent and so on.
    pub ancestors: Vec<Ancestor>,
}

/// A process that led to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Its id.
    pub pid: u32,
    /// What it ran.
    pub exe: Option<Untrusted>,
}

impl Process {
    /// Path of the executable, if it is known.
    #[must_use]
    pub fn exe(&self) -> Option<&Untrusted> {
        self.program.as_ref()?.exe.as_ref()
    }
}

/// One event of the kernel, or several that differ in nothing that matters.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// The event; of several, the first, with bytes and packets summed.
    pub event: AuditEvent,
    /// Whom it is accounted to.
    pub actor: Arc<Actor>,
    /// The rule that decided, if one did and is still known.
    pub rule: Option<Arc<RuleSource>>,
    /// Its process; of several events, that of the first.
    pub process: Process,
    /// When the first of them happened; for a close, when its flow was opened.
    pub start: Timestamp,
    /// When the last of them happened.
    pub end: Timestamp,
    /// How many events it stands for, at least 1.
    pub count: u64,
}

impl ConnectionRecord {
    /// The record of one event.
    #[must_use]
    pub fn new(
        event: AuditEvent,
        actor: Arc<Actor>,
        rule: Option<Arc<RuleSource>>,
        process: Process,
        clock: BootClock,
    ) -> Self {
        let start_ns = match event.kind {
            EventKind::Closed => event.time_ns.saturating_sub(event.duration_ns),
            EventKind::Connection | EventKind::Bind | EventKind::Socket => event.time_ns,
        };
        Self {
            start: clock.wall(start_ns),
            end: clock.wall(event.time_ns),
            event,
            actor,
            rule,
            process,
            count: 1,
        }
    }

    /// Takes `other` in: counts, bytes, packets and the time covered grow.
    pub fn absorb(&mut self, other: &Self) {
        self.count += other.count;
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        let (mine, theirs) = (&mut self.event, &other.event);
        mine.bytes_out = mine.bytes_out.saturating_add(theirs.bytes_out);
        mine.bytes_in = mine.bytes_in.saturating_add(theirs.bytes_in);
        mine.packets_out = mine.packets_out.saturating_add(theirs.packets_out);
        mine.packets_in = mine.packets_in.saturating_add(theirs.packets_in);
    }

    /// The name of the task, without its padding.
    #[must_use]
    pub fn comm(&self) -> &[u8] {
        let comm = &self.event.comm;
        let end = comm.iter().position(|&byte| byte == 0);
        &comm[..end.unwrap_or(comm.len())]
    }
}

/// A policy that came into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLoaded {
    /// When.
    pub time: Timestamp,
    /// Its generation.
    pub generation: u64,
    /// Identities in it.
    pub identities: usize,
    /// Rules in it.
    pub rules: usize,
}

/// A policy that was refused whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRejected {
    /// When.
    pub time: Timestamp,
    /// The generation that stays in force.
    pub generation: u64,
    /// How many errors it had.
    pub errors: usize,
    /// The first of them.
    pub detail: String,
}

/// A process that was put into a cgroup of its own, as an identity, or was refused that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// When.
    pub time: Timestamp,
    /// As whom; the name that was asked for.
    pub identity: Untrusted,
    /// Why, in the words of who asked.
    pub reason: Option<Untrusted>,
    /// Who asked.
    pub user: u32,
    /// Who logged in, if somebody did.
    pub login_user: Option<u32>,
    /// Its process.
    pub pid: u32,
    /// The name of that.
    pub comm: Untrusted,
    /// The new cgroup below the cgroup root, or why there is none.
    pub outcome: Result<Untrusted, String>,
}

/// Where events were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The kernel found the ring full.
    RingFull(Arc<Actor>, AgentId),
    /// The identity wrote more than its share while the ring was more than half full.
    OverBudget(Arc<Actor>, AgentId),
    /// The daemon had taken them from the ring, and ended before they were on disk.
    Interrupted(Arc<Actor>, AgentId),
    /// Their numbers are missing, and nothing that is counted says why.
    Unexplained,
    /// They did not decode, so nobody knows whose they were.
    Undecodable,
    /// The sink of this name refused them for good.
    Refused(String),
    /// The history had no room for what the sink of this name did not have yet.
    Undelivered(String),
    /// A file of the history could not be read; its records are what was lost.
    Damaged(String),
}

/// Events that will never be records, or records that a sink will never have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsLost {
    /// When it was noticed.
    pub time: Timestamp,
    /// Where.
    pub loss: Loss,
    /// How many since the last such record.
    pub lost: u64,
    /// How many since the start.
    pub total: u64,
}

/// What some sink does not have yet takes much of the room that the history has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFilling {
    /// When.
    pub time: Timestamp,
    /// How much of the room: 75, 90 or 100.
    pub percent: u8,
    /// How many bytes that is.
    pub bytes: u64,
    /// The most that there may be.
    pub most_bytes: u64,
}

/// Retention lets records go: it says so before they do, and nothing else may remove any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsRemoved {
    /// When.
    pub time: Timestamp,
    /// Number of the first of them.
    pub first: u64,
    /// Number of the last of them.
    pub last: u64,
}

/// Which limit of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitName {
    /// The identity.
    pub actor: Arc<Actor>,
    /// The rule that it is of, if it is of one.
    pub rule: Option<Arc<RuleSource>>,
    /// What is counted apart: `identity`, `process`, `cgroup` or `destination`.
    pub per: &'static str,
    /// Its key in policy: `connections`, `egress-quota`.
    pub kind: &'static str,
    /// What was asked for, as policy writes it.
    pub configured: String,
}

/// News of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitReport {
    /// Which.
    pub limit: LimitName,
    /// The generation in force.
    pub generation: u64,
    /// What.
    pub news: LimitNews,
}

/// What is new of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitNews {
    /// It was reached.
    Reached {
        /// When that began.
        start: Timestamp,
        /// Until when this counts.
        end: Timestamp,
        /// New flows or packets over it.
        count: u64,
        /// IP bytes of those packets.
        bytes: u64,
        /// Whether they passed, and are only recorded.
        is_audit: bool,
    },
    /// So much of a quota is used.
    Used {
        /// When that was seen.
        time: Timestamp,
        /// 80 or 100.
        percent: u8,
        /// IP bytes.
        bytes: u64,
    },
}

/// What a sink and `agentguard events` get.
#[derive(Clone, Debug)]
pub enum AuditRecord {
    /// What the kernel saw.
    Connection(Box<ConnectionRecord>),
    /// A policy came into force.
    PolicyLoaded(PolicyLoaded),
    /// A policy was refused.
    PolicyRejected(PolicyRejected),
    /// A process was launched as an identity, or refused.
    Launched(Box<Launched>),
    /// A limit was reached, or a quota is nearly used.
    Limit(Box<LimitReport>),
    /// The daemon started.
    DaemonStarted {
        /// When.
        time: Timestamp,
    },
    /// The daemon stopped.
    DaemonStopped {
        /// When.
        time: Timestamp,
    },
    /// Events were lost.
    EventsLost(EventsLost),
    /// The history fills, since a sink does not take its records.
    HistoryFilling(HistoryFilling),
    /// The oldest records go.
    RecordsRemoved(RecordsRemoved),
    /// All lines before this one are vouched for.
    Checkpoint(Box<Checkpoint>),
    /// Somebody wants to know whether a sink works.
    SinkTest {
        /// When.
        time: Timestamp,
        /// Its name.
        sink: String,
    },
}

impl AuditRecord {
    /// When it happened; of several events, the last.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        match self {
            Self::Connection(record) => record.end,
            Self::PolicyLoaded(record) => record.time,
            Self::PolicyRejected(record) => record.time,
            Self::Launched(record) => record.time,
            Self::EventsLost(record) => record.time,
            Self::Limit(record) => record.time(),
            Self::HistoryFilling(record) => record.time,
            Self::RecordsRemoved(record) => record.time,
            Self::Checkpoint(checkpoint) => {
                Timestamp::from_millisecond(checkpoint.time_ms).unwrap_or(Timestamp::UNIX_EPOCH)
            }
            Self::DaemonStarted { time }
            | Self::DaemonStopped { time }
            | Self::SinkTest { time, .. } => *time,
        }
    }

    /// The identity that it is about, if it is about one.
    #[must_use]
    pub fn actor(&self) -> Option<&Actor> {
        match self {
            Self::Connection(record) => Some(&record.actor),
            Self::Limit(record) => Some(&record.limit.actor),
            Self::EventsLost(EventsLost {
                loss:
                    Loss::RingFull(actor, _) | Loss::OverBudget(actor, _) | Loss::Interrupted(actor, _),
                ..
            }) => Some(actor),
            Self::EventsLost(_)
            | Self::PolicyLoaded(_)
            | Self::PolicyRejected(_)
            | Self::Launched(_)
            | Self::HistoryFilling(_)
            | Self::RecordsRemoved(_)
            | Self::Checkpoint(_)
            | Self::SinkTest { .. }
            | Self::DaemonStarted { .. }
            | Self::DaemonStopped { .. } => None,
        }
    }

    /// The verdict, of a connection.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Connection(record) => Some(record.event.verdict),
            Self::Limit(record) => record.verdict(),
            Self::EventsLost(_)
            | Self::PolicyLoaded(_)
            | Self::PolicyRejected(_)
            | Self::Launched(_)
            | Self::HistoryFilling(_)
            | Self::RecordsRemoved(_)
            | Self::Checkpoint(_)
            | Self::SinkTest { .. }
            | Self::DaemonStarted { .. }
            | Self::DaemonStopped { .. } => None,
        }
    }
}

impl LimitReport {
    fn time(&self) -> Timestamp {
        match self.news {
            LimitNews::Reached { end, .. } => end,
            LimitNews::Used { time, .. } => time,
        }
    }

    fn verdict(&self) -> Option<Verdict> {
        match self.news {
            LimitNews::Reached { is_audit: true, .. } => Some(Verdict::WouldDeny),
            LimitNews::Reached { .. } => Some(Verdict::Deny),
            LimitNews::Used { .. } => None,
        }
    }
}

/// `address` for people: IPv4 in its own form.
#[must_use]
pub fn ip_of(address: Address) -> IpAddr {
    IpAddr::from(address.0).to_canonical()
}
