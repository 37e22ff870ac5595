use std::collections::BTreeSet;

use super::*;
use crate::{
    control::{ClassTotal, IdentityStatus, LimitUnit},
    history::HistoryStatus,
    policy::compiled::Mode,
    sink::SinkStatus,
};

/// One line of a text: name, labels, value.
type Sample = (String, BTreeMap<String, String>, u64);

/// A parser of as much OpenMetrics as is written here; panics at anything else.
fn parse(text: &str) -> Vec<Sample> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    body.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = match series.split_once('{') {
                Some((name, rest)) => (name, parse_labels(rest)),
                None => (series, BTreeMap::new()),
            };
            (name.to_owned(), labels, value.parse().expect("a number"))
        })
        .collect()
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while rest != "}" {
        let (key, after) = rest.split_once("=\"").expect("a label");
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next().expect("a closing quote") {
                (index, '"') => break index,
                (_, '\\') => value.push(match letters.next().expect("an escape").1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, letter) => value.push(letter),
            }
        };
        let is_new = labels.insert(key.to_owned(), value).is_none();
        assert!(is_new, "{key} twice in {text}");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

/// The value of the one sample with these labels and no others.
fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> u64 {
    let wanted: BTreeMap<String, String> = labels
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let found: Vec<u64> = samples
        .iter()
        .filter(|(sample, labels, _)| sample == name && *labels == wanted)
        .map(|(_, _, value)| *value)
        .collect();
    assert_eq!(found.len(), 1, "{name}{labels:?}: {found:?}");
    found[0]
}

fn identity(name: &str, class: Class, base: u64) -> IdentityStatus {
    IdentityStatus {
        id: 3,
        name: name.to_owned(),
        class,
        mode: Mode::Enforce,
        owner: Some("o\n\"@example.com".to_owned()),
        expires: None,
        counters: Totals {
            allowed: base + 1,
            denied: base + 2,
            would_deny: base + 3,
            closed: base + 4,
            bytes_out: base + 5,
            bytes_in: base + 6,
        },
        open: base + 7,
        events: Balance {
            over_budget: 0,
            produced: base + 20,
            dropped: 2,
            received: base + 19,
            delivered: base + 6,
            folded: 7,
            held: 6,
            unread: 1,
            inherited: 2,
        },
    }
}

fn status() -> Status {
    let identities = vec![
        identity("unknown", Class::Unknown, 0),
        identity("a.b_c-9", Class::Agent, 100),
        identity("a.b_c-9?1", Class::Agent, 1000),
    ];
    let mut counters = identities[1].counters;
    counters += identities[2].counters;
    Status {
        version: "1.2.3".into(),
        pid: 7,
        started: "2026-01-02T03:04:05.9Z".parse().unwrap(),
        uptime_seconds: 9,
        cgroup_root: "/".into(),
        generation: 4,
        policy_files: Vec::new(),
        policies_rejected: 5,
        last_rejection: None,
        degraded: vec!["x".into()],
        programs: vec!["p".into(), "q".into()],
        identities,
        limits: vec![LimitStatus {
            identity: "a.b_c-9".into(),
            class: Class::Agent,
            rule: Some("r.egress[0]".into()),
            per: "process".into(),
            limit: "connections".into(),
            configured: "20/s burst 40".into(),
            unit: LimitUnit::Flows,
            used: 31,
            most: 40,
            headroom: 9,
            refused: 32,
            refused_bytes: 0,
            period_ends: None,
            counted_apart: Some(2),
            is_audit: false,
        }],
        totals: vec![ClassTotal {
            class: Class::Agent,
            identities: 2,
            counters,
        }],
        automation: counters,
        people: Totals::default(),
        events_lost: 8,
        events_undecodable: 2,
        events_missing: 3,
        cgroup_events_lost: 11,
        process_labels_lost: 12,
        process_events_lost: u64::MAX,
        history: HistoryStatus {
            first: 1,
            last: 1_000,
            bytes: 17,
            max_bytes: 19,
            undelivered_bytes: 18,
            waiting: 20,
            last_error: Some("no room".into()),
            refuses_flows: false,
        },
        sinks: vec![SinkStatus {
            name: "/a \"b\" \\ \n{c},d=\"e\"".into(),
            target: "stdout".into(),
            delivered: 13,
            waiting: 14,
            refused: 15,
            retries: 16,
            last_error: None,
        }],
    }
}

#[test]
fn every_number_is_read_back() {
    let samples = parse(&render(status()).unwrap());
    let agent = [("identity", "a.b_c-9"), ("class", "agent")];
    let of_agent = |name, key, word| value(&samples, name, &[agent[0], agent[1], (key, word)]);
    for (verdict, count) in [("allow", 1102), ("deny", 1104), ("would-deny", 1106)] {
        let counted = of_agent("agentguard_flows_total", "verdict", verdict);
        assert_eq!(counted, count);
        let labels = [("class", "agent"), ("verdict", verdict)];
        assert_eq!(
            value(&samples, "agentguard_class_flows_total", &labels),
            count
        );
    }
    let limit = [
        ("identity", "a.b_c-9"),
        ("limit", "connections"),
        ("rule", "r.egress[0]"),
        ("per", "process"),
    ];
    for (name, count) in [("used", 31), ("most", 40), ("refused_total", 32)] {
        let name = format!("agentguard_limit_{name}");
        assert_eq!(value(&samples, &name, &limit), count);
    }
    assert_eq!(value(&samples, "agentguard_flows_open", &agent), 1114);
    for (direction, count) in [("out", 1110), ("in", 1112)] {
        let counted = of_agent("agentguard_bytes_total", "direction", direction);
        assert_eq!(counted, count);
        let labels = [("class", "agent"), ("direction", direction)];
        assert_eq!(
            value(&samples, "agentguard_class_bytes_total", &labels),
            count
        );
    }
    assert_eq!(
        value(&samples, "agentguard_flows_closed_total", &agent),
        1108
    );
    let sink = ("sink", "/a \"b\" \\ \n{c},d=\"e\"");
    for (fate, records) in [("delivered", 13), ("refused", 15), ("retried", 16)] {
        let labels = [sink, ("fate", fate)];
        assert_eq!(
            value(&samples, "agentguard_sink_records_total", &labels),
            records
        );
    }
    assert_eq!(
        value(&samples, "agentguard_sink_records_waiting", &[sink]),
        14
    );
    for (name, expected) in [
        ("agentguard_history_records_total", 1_000),
        ("agentguard_history_bytes", 17),
        ("agentguard_history_undelivered_bytes", 18),
        ("agentguard_history_max_bytes", 19),
        ("agentguard_history_records_unwritten", 20),
        ("agentguard_history_broken", 1),
        ("agentguard_history_refuses_flows", 0),
    ] {
        assert_eq!(value(&samples, name, &[]), expected, "{name}");
    }
    for (name, expected) in [
        ("agentguard_generation", 4),
        ("agentguard_policy_identities", 2),
        ("agentguard_policy_rejected_total", 5),
        ("agentguard_events_undecodable_total", 2),
        ("agentguard_cgroup_events_lost_total", 11),
        ("agentguard_process_labels_lost_total", 12),
        ("agentguard_process_events_lost_total", u64::MAX),
        ("agentguard_programs_attached", 2),
        ("agentguard_degraded", 1),
        ("agentguard_start_time_seconds", 1_767_323_045),
    ] {
        assert_eq!(value(&samples, name, &[]), expected, "{name}");
    }
    let build = [("version", "1.2.3")];
    assert_eq!(value(&samples, "agentguard_build_info", &build), 1);
}

#[test]
fn every_event_has_a_fate_or_is_pending() {
    let samples = parse(&render(status()).unwrap());
    let sum = |name: &str, identity: &str| -> u64 {
        let of_identity = samples.iter().filter(|(sample, labels, _)| {
            sample == name
                && labels
                    .get("identity")
                    .is_some_and(|value| value == identity)
        });
        of_identity.map(|(_, _, value)| value).sum()
    };
    for identity in ["unknown", "a.b_c-9"] {
        let produced = sum("agentguard_events_produced_total", identity);
        assert!(produced > 0, "{identity}");
        assert_eq!(
            produced,
            sum("agentguard_events_total", identity) + sum("agentguard_events_pending", identity),
            "{identity}"
        );
    }
}

#[test]
fn no_series_comes_twice_and_each_is_explained() {
    let text = render(status()).unwrap();
    let samples = parse(&text);
    let series: BTreeSet<_> = samples
        .iter()
        .map(|(name, labels, _)| (name, labels))
        .collect();
    assert_eq!(series.len(), samples.len());
    for (name, labels, _) in &samples {
        let family = ["_total", "_info"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        for line in ["# HELP ", "# TYPE "] {
            let head = format!("{line}{family} ");
            let count = text.lines().filter(|line| line.starts_with(&head)).count();
            assert_eq!(count, 1, "{head}");
        }
        for unit in ["bytes", "seconds"] {
            let line = format!("# UNIT {family} {unit}\n");
            assert_eq!(text.contains(&line), family.ends_with(unit), "{line}");
        }
        assert!(
            labels
                .keys()
                .all(|key| !["owner", "purpose"].contains(&key.as_str()))
        );
    }
    assert!(!text.contains("a.b_c-9?1"), "{text}");
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard = include_str!("../../examples/grafana.json");
    let text = render(status()).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            let names =
                expr.split(|character: char| !(character.is_alphanumeric() || character == '_'));
            for name in names.filter(|name| name.starts_with("agentguard_")) {
                let is_there = text
                    .lines()
                    .any(|line| line.split(['{', ' ']).next() == Some(name));
                assert!(is_there, "{name} of {expr}");
                asked += 1;
            }
        }
    }
    assert!(asked > 12, "{asked}");
}
