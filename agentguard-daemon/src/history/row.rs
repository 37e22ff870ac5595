//! What the history can be asked by: the columns of one record.

use agentguard_common::{audit::EventKind, connection::Direction};

use crate::audit::{
    AuditRecord, Encoded, LimitNews,
    escape::escape,
    record::{ConnectionRecord, ip_of},
    words,
};

/// Longest text of a column, in bytes.
const TEXT: usize = 128;

/// One row of the table `events`; `None` is NULL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Unix time in milliseconds.
    pub time_ms: i64,
    /// `class_uid` of OCSF.
    pub class: u32,
    /// `activity_id` of OCSF.
    pub activity: u32,
    /// `severity_id` of OCSF.
    pub severity: u32,
    /// What it tells of: `connection`, `closed`, `bind`, `socket`, `limit`, `policy`, …
    pub event: &'static str,
    /// Name of the identity.
    pub identity: Option<String>,
    /// Class of the identity.
    pub actor: Option<&'static str>,
    /// `allow`, `deny`, `would-deny`.
    pub verdict: Option<&'static str>,
    /// Why.
    pub reason: Option<&'static str>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// `egress`, `ingress`, `bind`.
    pub direction: Option<&'static str>,
    /// `tcp`, `udp`, `icmp`, `other`.
    pub protocol: Option<&'static str>,
    /// The address of the other end; of a bind, of this one.
    pub address: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// File name of the executable, or the name of the task.
    pub program: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Its user.
    pub user: Option<u32>,
    /// Events that the record stands for.
    pub count: u64,
    /// IP bytes sent, of a flow that ended.
    pub bytes_out: u64,
    /// IP bytes received, of a flow that ended.
    pub bytes_in: u64,
    /// How long the flow was open, in milliseconds.
    pub duration_ms: Option<i64>,
}

impl Row {
    /// Of `record`, which was encoded as `encoded`.
    #[must_use]
    pub fn of(record: &AuditRecord, encoded: &Encoded) -> Self {
        let row = Self {
            time_ms: record.time().as_millisecond(),
            class: encoded.class_uid,
            activity: encoded.activity_id,
            severity: encoded.severity_id,
            count: 1,
            identity: record.actor().map(|actor| text(&actor.name)),
            actor: record.actor().map(|actor| words::of_class(actor.class)),
            verdict: record.verdict().map(words::of_verdict),
            ..Self::default()
        };
        match record {
            AuditRecord::Connection(connection) => row.with_connection(connection),
            AuditRecord::Limit(report) => Self {
                event: "limit",
                reason: Some(report.limit.kind),
                rule: report.limit.rule.as_ref().map(|rule| text(&rule.name)),
                count: match report.news {
                    LimitNews::Reached { count, .. } => count,
                    LimitNews::Used { .. } => 1,
                },
                ..row
            },
            AuditRecord::EventsLost(loss) => Self {
                event: "lost",
                count: loss.lost,
                ..row
            },
            AuditRecord::Launched(launched) => Self {
                event: "launch",
                identity: Some(launched.identity.escape(TEXT).text),
                program: Some(launched.comm.escape(TEXT).text),
                pid: Some(launched.pid),
                user: Some(launched.user),
                ..row
            },
            AuditRecord::PolicyLoaded(_) | AuditRecord::PolicyRejected(_) => Self {
                event: "policy",
                ..row
            },
            AuditRecord::DaemonStarted { .. } | AuditRecord::DaemonStopped { .. } => Self {
                event: "daemon",
                ..row
            },
            AuditRecord::HistoryFilling(_) | AuditRecord::RecordsRemoved(_) => Self {
                event: "history",
                ..row
            },
            AuditRecord::Checkpoint(_) => Self {
                event: "checkpoint",
                ..row
            },
            AuditRecord::SinkTest { .. } => Self {
                event: "test",
                ..row
            },
        }
    }

    fn with_connection(self, record: &ConnectionRecord) -> Self {
        let event = &record.event;
        let (address, port) = match event.kind {
            EventKind::Bind => (Some(event.local), Some(event.local_port)),
            EventKind::Connection | EventKind::Closed => {
                // Of an inbound flow the port that was asked for is this end's.
                let port = match event.direction {
                    Direction::Egress => event.remote_port,
                    Direction::Ingress | Direction::Bind => event.local_port,
                };
                (Some(event.remote), Some(port))
            }
            EventKind::Socket => (None, None),
        };
        let program = record.process.exe().map_or_else(
            || escape(record.comm(), TEXT).text,
            |exe| exe.file_name().escape(TEXT).text,
        );
        Self {
            event: match event.kind {
                EventKind::Connection => "connection",
                EventKind::Closed => "closed",
                EventKind::Bind => "bind",
                EventKind::Socket => "socket",
            },
            reason: Some(event.reason.name()),
            rule: record.rule.as_ref().map(|rule| text(&rule.name)),
            direction: Some(words::of_direction(event.direction)),
            protocol: Some(words::of_protocol(event.protocol)),
            address: address.map(|address| ip_of(address).to_string()),
            port,
            program: Some(program),
            pid: Some(event.pid),
            user: Some(event.uid),
            count: record.count,
            bytes_out: event.bytes_out,
            bytes_in: event.bytes_in,
            duration_ms: (event.kind == EventKind::Closed)
                .then(|| i64::try_from(event.duration_ns / 1_000_000).unwrap_or(i64::MAX)),
            ..self
        }
    }
}

fn text(text: &str) -> String {
    escape(text.as_bytes(), TEXT).text
}
