//! One event of each kind, and hostile ones, against the published OCSF 1.8.0 schemas.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use agentguard_common::{
    audit::{AuditEvent, Counters, EventKind, Hook},
    cgroup::Rank,
    connection::{Address, Direction, Protocol},
    identity::AgentId,
    policy::NO_RULE,
    verdict::{Reason, Verdict},
};
use agentguard_daemon::{
    audit::{
        Actor, Ancestor, AuditRecord, BootClock, Container, Encoder, EventsLost, HistoryFilling,
        Host, Launched, LimitName, LimitNews, LimitReport, Loss, Names, Place, PolicyLoaded,
        PolicyRejected, Process, Program, RecordsRemoved, Signer, Trail, Unmet, Untrusted,
        chain::Position, ocsf::MAX_LINE_BYTES,
    },
    policy::{
        compiled::{
            Class, Compiled, CompiledIdentity, Location, Mode, PortClasses, RuleSource, Tags,
        },
        selection::Selection,
    },
};
use jiff::Timestamp;
use jsonschema::Validator;
use serde_json::{Value, json};

const ID: AgentId = AgentId::FIRST_NAMED;
/// Control characters, an escape sequence, invalid UTF-8, a bidi override, quotes, backslashes.
const HOSTILE: &[u8] = b"a\n\0\x1b[2J\xff\xe2\x80\xae\xc2\x9b\"\\";

struct Schemas {
    classes: HashMap<u64, Validator>,
    captions: Value,
}

impl Schemas {
    fn load() -> Self {
        let directory = PathBuf::from(
            std::env::var_os("AGENTGUARD_OCSF_SCHEMAS")
                .expect("AGENTGUARD_OCSF_SCHEMAS is not set: run `cargo xtask test`"),
        );
        let read = |name: String| -> Value {
            let path = directory.join(name);
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            serde_json::from_slice(&bytes).unwrap()
        };
        let validator = |uid| jsonschema::validator_for(&read(format!("{uid}.json"))).unwrap();
        Self {
            classes: [4001, 3004, 6002, 6008]
                .map(|uid| (uid, validator(uid)))
                .into(),
            captions: read("captions.json".into()),
        }
    }

    /// Panics unless `line` is a valid event, in all that the schema says and leaves unsaid.
    fn check(&self, line: &str) -> Value {
        assert!(line.len() < MAX_LINE_BYTES, "{} bytes: {line}", line.len());
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let event: Value = serde_json::from_str(line).unwrap();
        let class = event["class_uid"].as_u64().unwrap();
        let errors: Vec<String> = self.classes[&class]
            .iter_errors(&event)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:#?}\n{line}");

        let activity = event["activity_id"].as_u64().unwrap();
        assert_eq!(event["type_uid"].as_u64(), Some(class * 100 + activity));
        let metadata = &event["metadata"];
        assert_eq!(metadata["version"], "1.8.0");
        assert_eq!(
            metadata["profiles"],
            json!(["host", "security_control", "container"])
        );
        let uid: uuid::Uuid = metadata["uid"].as_str().unwrap().parse().unwrap();
        assert_eq!(uid.get_version_num(), 7);
        assert_no_nulls(&event);

        let own = &self.captions[class.to_string()];
        for (id, caption) in [
            ("class_uid", "class_name"),
            ("category_uid", "category_name"),
            ("activity_id", "activity_name"),
            ("type_uid", "type_name"),
            ("severity_id", "severity"),
            ("status_id", "status"),
            ("action_id", "action"),
            ("disposition_id", "disposition"),
        ] {
            check_caption(&event, own, id, caption);
        }
        let connection = &self.captions["network_connection_info"];
        for (id, caption) in [
            ("direction_id", "direction"),
            ("boundary_id", "boundary"),
            ("protocol_ver_id", "protocol_ver"),
        ] {
            check_caption(&event["connection_info"], connection, id, caption);
        }
        for (object, name) in [
            (&event["device"], "device"),
            (&event["device"]["os"], "os"),
            (&event["actor"]["process"]["file"], "file"),
            (&event["entity"], "managed_entity"),
        ] {
            check_caption(object, &self.captions[name], "type_id", "type");
        }
        event
    }
}

fn check_caption(object: &Value, captions: &Value, id: &str, caption: &str) {
    if let Some(number) = object.get(id) {
        let expected = &captions[id][number.to_string()];
        assert!(expected.is_string(), "{id} {number} has no caption");
        if number == 99 && caption == "activity_name" {
            // What OCSF has no activity for is told in a word of the source.
            assert_ne!(&object[caption], expected);
        } else {
            assert_eq!(&object[caption], expected, "{caption} of {id} {number}");
        }
    }
}

fn assert_no_nulls(value: &Value) {
    match value {
        Value::Null => panic!("a null"),
        Value::Array(values) => values.iter().for_each(assert_no_nulls),
        Value::Object(fields) => fields.values().for_each(assert_no_nulls),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn names(text: &str) -> Names {
    let location = Location {
        file: format!("/etc/agentguard/policy.d/{text}.toml").into(),
        line: 7,
        column: 1,
    };
    let identity = CompiledIdentity {
        name: text.into(),
        class: Class::Agent,
        owner: Some(text.into()),
        purpose: Some(text.into()),
        environment: Some(text.into()),
        roles: vec![text.into(), text.into()],
        mode: Mode::Enforce,
        expires: None,
        selectors: Vec::new(),
        flags: 0,
        profile: 1,
        conditional: Vec::new(),
        variants: Vec::new(),
        variant_of: None,
        tags: Tags::default(),
        location: Some(location.clone()),
    };
    let compiled = Compiled {
        addresses: Vec::new(),
        ports: PortClasses {
            tcp: Vec::new(),
            udp: Vec::new(),
        },
        rules: Vec::new(),
        identities: vec![identity],
        rule_sources: vec![RuleSource {
            name: text.into(),
            location,
        }],
        agents_slice: "agents.slice".into(),
        selection: Selection::default(),
        launchers: Vec::new(),
        limits: Vec::new(),
        quota_time: agentguard_daemon::policy::limit::QuotaTime::default(),
    };
    Names::new(&compiled, &[ID])
}

fn event(kind: EventKind, verdict: Verdict) -> AuditEvent {
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"sync");
    AuditEvent {
        time_ns: 60_000_000_000,
        generation: 12,
        cgroup_id: 4_711,
        socket_cookie: u64::MAX,
        bytes_out: 1_000,
        bytes_in: 2_000,
        packets_out: 3,
        packets_in: 4,
        duration_ns: 1_500_000_000,
        exec_id: 0,
        facts: 0,
        identity: ID,
        rule: 1,
        pid: 1_234,
        uid: 1_000,
        local: Address::from_v4([10, 0, 0, 1]),
        remote: Address::from_v4([10, 20, 0, 9]),
        comm,
        local_port: 40_000,
        remote_port: 443,
        kind,
        verdict,
        reason: Reason::Rule,
        direction: Direction::Egress,
        protocol: Protocol::Tcp,
        hook: Hook::Connect,
        rank: Rank::Unit,
        facts_known: 0,
        cpu_sequence: 77,
        cpu: 1,
        reserved: [0; 2],
    }
}

/// A trail and the encoder after it.
struct Line {
    trail: Trail,
    encoder: Encoder,
    position: Position,
}

fn trail(text: &str) -> Line {
    let host = Host {
        version: "0.1.0".into(),
        hostname: text.into(),
        boot_id: "2f1c5b0a-5a65-4b8e-9d3c-0f6f6d6f2a11".into(),
    };
    let mut trail = Trail::default();
    trail.learn_generation(12, names(text));
    Line {
        trail,
        encoder: Encoder::new(host, uuid::Uuid::now_v7()),
        position: Position::FIRST,
    }
}

impl Line {
    fn encode(&mut self, records: &[AuditRecord]) -> Vec<String> {
        let encode = |record| {
            let line = self.encoder.encode(record, self.position).line;
            self.position = self.position.after(&line);
            line
        };
        records.iter().map(encode).collect()
    }
}

fn line_of(line: &mut Line, event: AuditEvent, path: &[u8]) -> String {
    let exe = Some(Untrusted::new(path));
    let program = Program {
        exe: exe.clone(),
        script: exe.clone(),
        login_uid: Some(1000),
        session_id: Some(3),
        ancestors: vec![Ancestor { pid: 7, exe }; 8],
    };
    let exe = Some(Untrusted::new(path));
    let process = Process {
        program: Some(program.into()),
        sha256: Some([0xab; 32]),
        place: Some(Arc::new(Place {
            cgroup: Untrusted::new(path),
            unit: exe.clone(),
            run: "cgroup-4711".into(),
            container: Some(Container {
                runtime: "podman",
                id: Untrusted::new(path),
                name: exe.clone(),
                image: exe.clone(),
            }),
        })),
        unmet: vec![
            Unmet {
                of: String::from_utf8_lossy(path).into_owned(),
                conditions: vec![String::from_utf8_lossy(path).into_owned()],
            };
            4
        ]
        .into(),
    };
    let clock = BootClock::new("2026-11-24T00:00:00Z".parse().unwrap());
    let mut records = Vec::new();
    line.trail
        .receive(event, process, clock, event.time_ns, &mut records);
    line.encode(&records).pop().unwrap_or_default()
}

#[test]
#[ignore = "needs the OCSF schemas: cargo xtask test"]
fn connections_are_valid_and_say_what_happened() {
    let schemas = Schemas::load();
    for (kind, verdict, type_uid, action, disposition) in [
        (EventKind::Connection, Verdict::Allow, 400_101, 1, 1),
        (EventKind::Connection, Verdict::Deny, 400_105, 2, 2),
        (EventKind::Connection, Verdict::WouldDeny, 400_101, 3, 15),
        (EventKind::Closed, Verdict::Allow, 400_102, 1, 1),
        (EventKind::Bind, Verdict::Allow, 400_107, 1, 1),
        (EventKind::Bind, Verdict::Deny, 400_107, 2, 2),
        (EventKind::Socket, Verdict::Deny, 400_105, 2, 2),
    ] {
        let line = line_of(&mut trail("sync"), event(kind, verdict), b"/usr/bin/sync");
        let event = schemas.check(&line);
        assert!(line.len() < 3_072, "{} bytes", line.len());
        assert_eq!(event["type_uid"], type_uid);
        assert_eq!(event["action_id"], action);
        assert_eq!(event["disposition_id"], disposition);
        assert_eq!(event["actor"]["app_uid"], "sync");
        assert_eq!(event["actor"]["process"]["file"]["path"], "/usr/bin/sync");
        let hash = &event["actor"]["process"]["file"]["hashes"][0];
        assert_eq!(hash["value"], "ab".repeat(32));
        let container = &event["actor"]["process"]["container"];
        assert_eq!(container["uid"], "/usr/bin/sync");
        assert_eq!(container["runtime"], "podman");
        assert_eq!(container["image"]["uid"], "/usr/bin/sync");
        assert_eq!(event["actor"]["session"]["uid"], "cgroup-4711");
        assert_eq!(event["firewall_rule"]["name"], "sync");
        assert_eq!(event["policy"]["version"], "12");
        assert_eq!(event["metadata"].get("is_truncated"), None);
        let own = &event["unmapped"]["agentguard"];
        assert_eq!(own["rule_source"], "/etc/agentguard/policy.d/sync.toml:7");
        assert_eq!(own["class"], "agent");
        assert_eq!(own["unit"], "/usr/bin/sync");
        assert_eq!(own["unmet"][3]["conditions"], "/usr/bin/sync");
        assert_eq!(event.get("status_code").is_some(), verdict == Verdict::Deny);
        let traffic = json!(
            {"bytes_out": 1000, "bytes_in": 2000, "packets_out": 3, "packets_in": 4}
        );
        let is_closed = kind == EventKind::Closed;
        assert_eq!(event.get("traffic"), is_closed.then_some(&traffic));
        assert_eq!(event.get("duration"), is_closed.then_some(&json!(1_500)));
    }
}

#[test]
#[ignore = "needs the OCSF schemas: cargo xtask test"]
fn every_protocol_reason_and_address_is_valid() {
    let schemas = Schemas::load();
    let v6 = |first| Address([first, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let remotes = [
        v6(0x20),
        v6(0xfd),
        v6(0xff),
        Address::LOOPBACK_V6,
        Address::default(),
    ];
    for protocol in [
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Icmp,
        Protocol::Other,
    ] {
        for direction in [Direction::Egress, Direction::Ingress] {
            for (reason, rule) in [
                (Reason::Rule, 1),
                (Reason::Rule, 99),
                (Reason::NoRule, NO_RULE),
                (Reason::Malformed, NO_RULE),
            ] {
                for remote in remotes {
                    let event = AuditEvent {
                        protocol,
                        direction,
                        reason,
                        rule,
                        remote,
                        ..event(EventKind::Connection, Verdict::Deny)
                    };
                    schemas.check(&line_of(&mut trail("sync"), event, b""));
                }
            }
        }
    }
}

#[test]
#[ignore = "needs the OCSF schemas: cargo xtask test"]
fn repeats_become_one_valid_event() {
    let schemas = Schemas::load();
    let mut trail = trail("sync");
    for second in 0..5 {
        let event = AuditEvent {
            time_ns: second * 1_000_000_000,
            ..event(EventKind::Connection, Verdict::Deny)
        };
        assert_eq!(line_of(&mut trail, event, b"/bin/x").is_empty(), second > 0);
    }
    let mut records = Vec::new();
    trail.trail.flush_due(10_000_000_000, &mut records);
    let lines = trail.encode(&records);
    let event = schemas.check(&lines[0]);
    assert_eq!(event["count"], 4);
    assert_eq!(event["duration"], 3_000);
    assert_eq!(event["time"], event["end_time"]);
}

#[test]
#[ignore = "needs the OCSF schemas: cargo xtask test"]
fn hostile_strings_stay_on_one_short_valid_line() {
    let schemas = Schemas::load();
    for hostile in [
        HOSTILE.repeat(300),
        vec![b'\\'; 4_096],
        vec![b'"'; 4_096],
        vec![0xff; 4_096],
    ] {
        let text = String::from_utf8_lossy(&hostile);
        let mut trail = trail(&text);
        let event = AuditEvent {
            comm: std::array::from_fn(|index| hostile[index].max(1)),
            ..event(EventKind::Connection, Verdict::Deny)
        };
        let event = schemas.check(&line_of(&mut trail, event, &hostile));
        assert_eq!(event["metadata"]["is_truncated"], true);
        let mut records = Vec::new();
        let time = Timestamp::UNIX_EPOCH;
        let drops = Counters {
            events_produced: 9,
            events_dropped: 9,
            ..Counters::default()
        };
        trail.trail.report_losses(ID, &drops, time, &mut records);
        trail.trail.report_sink_loss(&text, 4, time, &mut records);
        let rejected = PolicyRejected {
            time,
            generation: 1,
            errors: 2,
            detail: text.clone().into_owned(),
        };
        records.push(AuditRecord::PolicyRejected(rejected));
        let untrusted = Untrusted::new(&hostile);
        for outcome in [Ok(untrusted.clone()), Err(text.clone().into_owned())] {
            let launched = Launched {
                time,
                identity: untrusted.clone(),
                reason: Some(untrusted.clone()),
                user: 1,
                login_user: Some(2),
                pid: 3,
                comm: untrusted.clone(),
                outcome,
            };
            records.push(AuditRecord::Launched(Box::new(launched)));
        }
        for loss in [Loss::Undelivered, Loss::Damaged] {
            records.push(AuditRecord::EventsLost(EventsLost {
                time,
                loss: loss(text.clone().into_owned()),
                lost: 1,
                total: 1,
            }));
        }
        let sink = text.clone().into_owned();
        records.push(AuditRecord::SinkTest { time, sink });
        assert_eq!(records.len(), 8);
        for line in &trail.encode(&records) {
            schemas.check(line);
        }
    }
}

#[test]
#[ignore = "needs the OCSF schemas: cargo xtask test"]
fn news_of_the_daemon_is_valid() {
    let schemas = Schemas::load();
    let time = Timestamp::UNIX_EPOCH;
    let actor = Actor {
        name: "sync".into(),
        class: Class::Agent,
        owner: None,
        purpose: None,
        environment: None,
        roles: Vec::new(),
        mode: None,
    };
    let lost = |loss| {
        AuditRecord::EventsLost(EventsLost {
            time,
            loss,
            lost: 3,
            total: 5,
        })
    };
    let loaded = PolicyLoaded {
        time,
        generation: 2,
        identities: 3,
        rules: 4,
    };
    let rejected = PolicyRejected {
        time,
        generation: 2,
        errors: 1,
        detail: "a.toml:1".into(),
    };
    let launched = |outcome| {
        AuditRecord::Launched(Box::new(Launched {
            time,
            identity: Untrusted::new(b"sync"),
            reason: Some(Untrusted::new(b"ticket 7")),
            user: 1_000,
            login_user: None,
            pid: 7,
            comm: Untrusted::new(b"agentguard"),
            outcome,
        }))
    };
    let limit = |kind, rule: Option<&str>, news| {
        let rule = rule.map(|name| {
            let location = Location {
                file: "a.toml".into(),
                line: 1,
                column: 1,
            };
            let name = name.to_owned();
            Arc::new(RuleSource { name, location })
        });
        AuditRecord::Limit(Box::new(LimitReport {
            limit: LimitName {
                actor: actor.clone().into(),
                rule,
                per: "process",
                kind,
                configured: "20/s burst 40".into(),
            },
            generation: 3,
            news,
        }))
    };
    let reached = |is_audit| LimitNews::Reached {
        start: time,
        end: time,
        count: 7,
        bytes: 900,
        is_audit,
    };
    let used = |percent| LimitNews::Used {
        time,
        percent,
        bytes: 800,
    };
    for (record, type_uid, status) in [
        (limit("connections", None, reached(false)), 400_106, 2),
        (
            limit("connections", Some("r.egress[0]"), reached(true)),
            400_106,
            1,
        ),
        (limit("egress", None, reached(false)), 400_106, 2),
        (limit("ingress-quota", None, used(80)), 400_106, 1),
        (limit("egress-quota", None, used(100)), 400_106, 1),
        (
            launched(Ok(Untrusted::new(b"/agents.slice/x.scope"))),
            300_406,
            1,
        ),
        (launched(Err("policy does not let you".into())), 300_406, 2),
        (AuditRecord::DaemonStarted { time }, 600_203, 1),
        (AuditRecord::DaemonStopped { time }, 600_204, 1),
        (AuditRecord::PolicyLoaded(loaded), 300_403, 1),
        (AuditRecord::PolicyRejected(rejected), 300_403, 2),
        (lost(Loss::RingFull(actor.clone().into(), ID)), 600_801, 2),
        (lost(Loss::OverBudget(actor.clone().into(), ID)), 600_801, 2),
        (
            lost(Loss::Interrupted(actor.clone().into(), ID)),
            600_801,
            2,
        ),
        (lost(Loss::Unexplained), 600_801, 2),
        (lost(Loss::Undecodable), 600_801, 2),
        (lost(Loss::Refused("siem".into())), 600_801, 2),
        (lost(Loss::Undelivered("siem".into())), 600_801, 2),
        (lost(Loss::Damaged("/x.db".into())), 600_801, 2),
        (
            AuditRecord::HistoryFilling(HistoryFilling {
                time,
                percent: 75,
                bytes: 3,
                most_bytes: 4,
            }),
            600_801,
            2,
        ),
        (
            AuditRecord::RecordsRemoved(RecordsRemoved {
                time,
                first: 1,
                last: 4,
            }),
            600_299,
            1,
        ),
        (
            AuditRecord::Checkpoint(Box::new(Signer::new(&[1; 32]).sign(
                Position::FIRST,
                0,
                [2; 32],
            ))),
            600_299,
            1,
        ),
        (
            AuditRecord::SinkTest {
                time,
                sink: "siem".into(),
            },
            600_299,
            1,
        ),
    ] {
        let lines = trail("host").encode(&[record]);
        let event = schemas.check(&lines[0]);
        assert_eq!(event["type_uid"], type_uid);
        assert_eq!(event["status_id"], status);
    }
}
