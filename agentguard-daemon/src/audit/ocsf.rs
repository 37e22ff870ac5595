//! Records to OCSF 1.8.0, one compact JSON line each.
//!
//! Every string is escaped as [`super::escape`] tells and bounded. Where a line would yet be longer
//! than [`MAX_LINE_BYTES`], all bounds are halved until it is not, whatever a process or a policy calls
//! itself; `metadata.is_truncated` says when something was cut.

mod connection;
mod limits;
mod losses;
mod schema;

use uuid::{Builder, Uuid};

use self::schema::{
    Action, Classification, Device, Entity, Event, Metadata, Os, Own, OwnCheckpoint, OwnLaunch,
    OwnRemoved, Policy, Product, Severity, Status,
};
use super::{
    chain::{Position, to_hex},
    checkpoint::Checkpoint,
    escape::{Escaped, Untrusted, escape},
    record::{AuditRecord, Launched, PolicyLoaded, PolicyRejected, RecordsRemoved},
};

/// Longest line, its newline included: what rsyslog accepts by default.
pub const MAX_LINE_BYTES: usize = 8_192;

/// Limits of escaped text, in bytes.
mod limit {
    pub(super) const NAME: usize = 96;
    pub(super) const TEXT: usize = 192;
    pub(super) const PATH: usize = 320;
    pub(super) const HOST: usize = 64;
    pub(super) const SHORT: usize = 128;
}

/// Halvings after which no limit is left.
const MAX_HALVINGS: u32 = 9;

/// What is the same in all events of a daemon.
#[derive(Clone, Debug)]
pub struct Host {
    /// Version of agentguard.
    pub version: String,
    /// Name of the host.
    pub hostname: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// Turns records into lines.
#[derive(Debug)]
pub struct Encoder {
    host: Host,
    seed: [u8; 16],
}

/// A record as a line, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// OCSF JSON, without its newline.
    pub line: String,
    /// `class_uid` of OCSF.
    pub class_uid: u32,
    /// `activity_id` of OCSF.
    pub activity_id: u32,
    /// `severity_id` of OCSF.
    pub severity_id: u32,
}

/// The texts of one event: how often their limits are halved, and whether anything was cut.
#[derive(Debug, Default)]
struct Text {
    halvings: u32,
    is_cut: bool,
}

impl Text {
    fn of(&mut self, text: &str, limit: usize) -> String {
        self.take(escape(text.as_bytes(), limit >> self.halvings))
    }

    fn of_untrusted(&mut self, bytes: &Untrusted, limit: usize) -> String {
        self.take(bytes.escape(limit >> self.halvings))
    }

    fn take(&mut self, escaped: Escaped) -> String {
        self.is_cut |= escaped.is_cut;
        escaped.text
    }
}

impl Encoder {
    /// `seed` holds random bits, other ones for each start of the daemon: event ids are unique as
    /// long as it is.
    #[must_use]
    pub const fn new(host: Host, seed: Uuid) -> Self {
        Self {
            host,
            seed: seed.into_bytes(),
        }
    }

    /// Of which boot its lines are.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.host.boot_id
    }

    /// The line of `record` at its place in the chain.
    #[must_use]
    pub fn encode(&self, record: &AuditRecord, position: Position) -> Encoded {
        let mut halvings = 0;
        loop {
            let encoded = self.encode_within(record, position, halvings);
            // Without any text but the mark of what was cut, every line fits.
            if encoded.line.len() < MAX_LINE_BYTES || halvings == MAX_HALVINGS {
                return encoded;
            }
            halvings += 1;
        }
    }

    fn encode_within(&self, record: &AuditRecord, position: Position, halvings: u32) -> Encoded {
        let mut text = Text {
            halvings,
            is_cut: false,
        };
        let mut event = match record {
            AuditRecord::Connection(record) => connection::event(record, &self.host, &mut text),
            AuditRecord::PolicyLoaded(record) => policy_loaded(record),
            AuditRecord::PolicyRejected(record) => policy_rejected(record, &mut text),
            AuditRecord::Launched(record) => launched(record, &mut text),
            AuditRecord::Limit(record) => limits::event(record, &self.host, &mut text),
            AuditRecord::DaemonStarted { .. } => self.lifecycle(3, "Start", "started", &mut text),
            AuditRecord::DaemonStopped { .. } => self.lifecycle(4, "Stop", "stopped", &mut text),
            AuditRecord::EventsLost(record) => losses::events_lost(record, &mut text),
            AuditRecord::HistoryFilling(record) => losses::history_filling(record),
            AuditRecord::RecordsRemoved(record) => self.records_removed(*record, &mut text),
            AuditRecord::Checkpoint(checkpoint) => self.checkpoint(checkpoint, &mut text),
            AuditRecord::SinkTest { sink, .. } => self.sink_test(sink, &mut text),
        };
        event.time = record.time().as_millisecond();
        event.device = device(&self.host, &mut text);
        event.metadata = Metadata {
            version: "1.8.0",
            product: self.product(&mut text),
            profiles: ["host", "security_control", "container"],
            uid: self.uid(event.time, position.sequence).to_string(),
            sequence: position.sequence,
            is_truncated: text.is_cut,
        };
        event.unmapped.agentguard.previous = to_hex(&position.previous);
        match serde_json::to_string(&event) {
            Ok(line) => Encoded {
                line,
                class_uid: event.class.class_uid,
                activity_id: event.class.activity_id,
                severity_id: event.severity.severity_id,
            },
            // Only maps with keys that are no strings and failing `Serialize` code can fail: the
            // schema has neither.
            Err(error) => unreachable!("an event of plain structs serialises: {error}"),
        }
    }

    /// UUIDv7 whose random part is the seed and the sequence number.
    fn uid(&self, time_ms: i64, sequence: u64) -> Uuid {
        let mut random = [0; 10];
        let [_, _, _, _, _, _, seed @ ..] = &self.seed;
        random.copy_from_slice(seed);
        let [.., a, b, c, d] = sequence.to_be_bytes();
        random[6..].copy_from_slice(&[a, b, c, d]);
        Builder::from_unix_timestamp_millis(u64::try_from(time_ms).unwrap_or(0), &random)
            .into_uuid()
    }

    fn product(&self, text: &mut Text) -> Product {
        Product {
            name: "agentguard",
            vendor_name: "agentguard",
            version: text.of(&self.host.version, limit::HOST),
        }
    }

    fn lifecycle(
        &self,
        activity_id: u32,
        activity: &'static str,
        verb: &str,
        text: &mut Text,
    ) -> Event {
        let app = self.product(text);
        Event {
            class: LIFECYCLE.activity(activity_id, activity),
            severity: INFORMATIONAL,
            message: format!("agentguard {} {verb}", app.version),
            status: SUCCESS,
            app: Some(app),
            ..Event::default()
        }
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, text: &mut Text) -> Event {
        Event {
            class: LIFECYCLE.activity(99, "Checkpoint"),
            severity: INFORMATIONAL,
            message: "all records before this one are vouched for".to_owned(),
            status: SUCCESS,
            app: Some(self.product(text)),
            unmapped: Own::Checkpoint {
                checkpoint: OwnCheckpoint {
                    key: to_hex(&checkpoint.key),
                    next_key: to_hex(&checkpoint.next_key),
                    signature: to_hex(&checkpoint.signature),
                },
            }
            .into(),
            ..Event::default()
        }
    }

    fn records_removed(&self, record: RecordsRemoved, text: &mut Text) -> Event {
        let RecordsRemoved { first, last, .. } = record;
        Event {
            class: LIFECYCLE.activity(99, "Retention"),
            severity: INFORMATIONAL,
            message: format!(
                "records {first} to {last} go from the history: their time is over, or its room"
            ),
            status: SUCCESS,
            app: Some(self.product(text)),
            unmapped: Own::Removed {
                removed: OwnRemoved { first, last },
            }
            .into(),
            ..Event::default()
        }
    }

    fn sink_test(&self, sink: &str, text: &mut Text) -> Event {
        let sink = text.of(sink, limit::NAME);
        Event {
            class: LIFECYCLE.activity(99, "Test"),
            severity: INFORMATIONAL,
            message: format!("test of sink {sink}"),
            status: SUCCESS,
            app: Some(self.product(text)),
            ..Event::default()
        }
    }
}

/// A class of OCSF.
struct Class {
    uid: u32,
    name: &'static str,
    category_uid: u32,
    category: &'static str,
}

const NETWORK: Class = Class {
    uid: 4001,
    name: "Network Activity",
    category_uid: 4,
    category: "Network Activity",
};
const ENTITY: Class = Class {
    uid: 3004,
    name: "Entity Management",
    category_uid: 3,
    category: "Identity & Access Management",
};
const LIFECYCLE: Class = Class {
    uid: 6002,
    name: "Application Lifecycle",
    category_uid: 6,
    category: "Application Activity",
};
const ERROR: Class = Class {
    uid: 6008,
    name: "Application Error",
    category_uid: 6,
    category: "Application Activity",
};

impl Class {
    fn activity(&self, id: u32, name: &'static str) -> Classification {
        Classification {
            class_uid: self.uid,
            class_name: self.name,
            category_uid: self.category_uid,
            category_name: self.category,
            activity_id: id,
            activity_name: name,
            type_uid: self.uid * 100 + id,
            // The activity is told in our word where OCSF has none, its type is not.
            type_name: format!("{}: {}", self.name, if id == 99 { "Other" } else { name }),
        }
    }
}

const INFORMATIONAL: Severity = severity(1, "Informational");
const LOW: Severity = severity(2, "Low");
const MEDIUM: Severity = severity(3, "Medium");
const HIGH: Severity = severity(4, "High");

const fn severity(severity_id: u32, severity: &'static str) -> Severity {
    Severity {
        severity_id,
        severity,
    }
}

const SUCCESS: Status = Status {
    status_id: 1,
    status: "Success",
    status_code: None,
    status_detail: None,
};
const FAILURE: Status = Status {
    status_id: 2,
    status: "Failure",
    status_code: None,
    status_detail: None,
};

const ALLOWED: Action = Action {
    action_id: 1,
    action: "Allowed",
    disposition_id: 1,
    disposition: "Allowed",
};
const BLOCKED: Action = Action {
    action_id: 2,
    action: "Denied",
    disposition_id: 2,
    disposition: "Blocked",
};
const DETECTED: Action = Action {
    action_id: 3,
    action: "Observed",
    disposition_id: 15,
    disposition: "Detected",
};

fn device(host: &Host, text: &mut Text) -> Device {
    Device {
        type_id: 0,
        type_name: "Unknown",
        hostname: text.of(&host.hostname, limit::HOST),
        boot_uid: text.of(&host.boot_id, limit::HOST),
        os: Os {
            name: "Linux",
            type_id: 200,
            type_name: "Linux",
        },
    }
}

fn policy(generation: u64) -> Policy {
    Policy {
        name: "agentguard",
        version: generation.to_string(),
        is_applied: true,
    }
}

fn policy_entity(generation: u64) -> Entity {
    Entity {
        name: "agentguard".into(),
        type_id: 5,
        type_name: "Policy",
        version: Some(generation.to_string()),
    }
}

fn policy_loaded(record: &PolicyLoaded) -> Event {
    let &PolicyLoaded {
        generation,
        identities,
        rules,
        ..
    } = record;
    Event {
        class: ENTITY.activity(3, "Update"),
        severity: INFORMATIONAL,
        message: format!(
            "policy generation {generation} in force: {identities} identities, {rules} rules"
        ),
        status: SUCCESS,
        action: Some(ALLOWED),
        policy: Some(policy(generation)),
        entity: Some(policy_entity(generation)),
        unmapped: Own::Policy { identities, rules }.into(),
        ..Event::default()
    }
}

fn policy_rejected(record: &PolicyRejected, text: &mut Text) -> Event {
    let &PolicyRejected {
        generation, errors, ..
    } = record;
    let detail = text.of(&record.detail, limit::PATH);
    Event {
        class: ENTITY.activity(3, "Update"),
        severity: MEDIUM,
        message: format!(
            "policy rejected with {errors} errors, generation {generation} stays in force: {detail}"
        ),
        status: Status {
            status_detail: Some(detail),
            ..FAILURE
        },
        action: Some(BLOCKED),
        policy: Some(policy(generation)),
        entity: Some(policy_entity(generation)),
        unmapped: Own::Rejected { errors }.into(),
        ..Event::default()
    }
}

fn launched(record: &Launched, text: &mut Text) -> Event {
    let identity = text.of_untrusted(&record.identity, limit::NAME);
    let comm = text.of_untrusted(&record.comm, limit::NAME);
    let who = format!("{comm}[{}] of user {}", record.pid, record.user);
    let reason = record
        .reason
        .as_ref()
        .map(|reason| text.of_untrusted(reason, limit::TEXT));
    let (message, severity, status, action, cgroup) = match &record.outcome {
        Ok(cgroup) => (
            format!("{who} launched as {identity}"),
            INFORMATIONAL,
            SUCCESS,
            ALLOWED,
            Some(text.of_untrusted(cgroup, limit::PATH)),
        ),
        Err(why) => {
            let why = text.of(why, limit::TEXT);
            let status = Status {
                status_detail: Some(why.clone()),
                ..FAILURE
            };
            let message = format!("{who} not launched as {identity}: {why}");
            (message, MEDIUM, status, BLOCKED, None)
        }
    };
    Event {
        class: ENTITY.activity(6, "Enroll"),
        severity,
        message,
        status,
        action: Some(action),
        entity: Some(Entity {
            name: identity.into(),
            type_id: 99,
            type_name: "Other",
            version: None,
        }),
        unmapped: Own::Launch(Box::new(OwnLaunch {
            user: record.user,
            login_user: record.login_user,
            pid: record.pid,
            comm,
            reason,
            cgroup,
        }))
        .into(),
        ..Event::default()
    }
}
