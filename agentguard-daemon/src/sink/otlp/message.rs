//! The messages of OTLP's service for logs, as far as they are used.
//!
//! The crate that has them all brings the whole SDK of OpenTelemetry with it.

use std::{borrow::Cow, time::Duration};

use prost::{Message, Oneof};
use serde::Deserialize;

use super::{Record, nanoseconds};
use crate::sink::host;

/// `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LogsRequest {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

/// `ExportLogsServiceResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LogsAnswer {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_log_records: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    severity_number: i32,
    #[prost(string, tag = "3")]
    severity_text: String,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<Attribute>,
    #[prost(fixed64, tag = "11")]
    observed_time_unix_nano: u64,
    #[prost(string, tag = "12")]
    event_name: String,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

impl LogsRequest {
    /// `observed` is the Unix time at which they are sent.
    pub(super) fn new(records: &[Record], observed: Duration) -> Self {
        let observed = nanoseconds(observed);
        let scope = Scope {
            name: "agentguard".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let log_records = records.iter().map(|record| log_record(record, observed));
        Self {
            resource_logs: vec![ResourceLogs {
                resource: Some(Resource {
                    attributes: vec![
                        attribute("service.name", text("agentguard")),
                        attribute("host.name", text(host::name())),
                    ],
                }),
                scope_logs: vec![ScopeLogs {
                    scope: Some(scope),
                    log_records: log_records.collect(),
                }],
            }],
        }
    }
}

impl LogsAnswer {
    /// How many records were rejected for good, and why.
    pub(super) fn rejected(&self) -> (usize, &str) {
        self.partial_success.as_ref().map_or((0, ""), |partial| {
            let rejected = usize::try_from(partial.rejected_log_records).unwrap_or(0);
            (rejected, &partial.error_message)
        })
    }
}

/// What is told of a line beside the line.
#[derive(Default, Deserialize)]
struct Event<'line> {
    #[serde(borrow, default)]
    type_name: Cow<'line, str>,
    #[serde(borrow, default)]
    metadata: Metadata<'line>,
}

#[derive(Default, Deserialize)]
struct Metadata<'line> {
    #[serde(borrow, default)]
    uid: Cow<'line, str>,
}

fn log_record(record: &Record, observed: u64) -> LogRecord {
    // A line without them goes without them.
    let event: Event<'_> = serde_json::from_str(&record.line).unwrap_or_default();
    let (severity_number, severity_text) = severity(record.severity);
    let time = Duration::from_millis(u64::try_from(record.time_ms).unwrap_or(0));
    let sequence = i64::try_from(record.sequence).unwrap_or(i64::MAX);
    let mut attributes = vec![attribute("agentguard.sequence", Value::Number(sequence))];
    if !event.metadata.uid.is_empty() {
        attributes.push(attribute("log.record.uid", text(event.metadata.uid)));
    }
    LogRecord {
        time_unix_nano: nanoseconds(time),
        severity_number,
        severity_text: severity_text.to_owned(),
        body: Some(value(text(record.line.as_str()))),
        attributes,
        observed_time_unix_nano: observed,
        event_name: event.type_name.into_owned(),
    }
}

/// `SeverityNumber` and the name that OCSF has for it.
const fn severity(id: u8) -> (i32, &'static str) {
    match id {
        1 => (9, "Informational"),
        2 => (10, "Low"),
        3 => (13, "Medium"),
        4 => (17, "High"),
        5 => (21, "Critical"),
        6 => (24, "Fatal"),
        _ => (0, "Unknown"),
    }
}

fn attribute(key: &str, of: Value) -> Attribute {
    Attribute {
        key: key.to_owned(),
        value: Some(value(of)),
    }
}

const fn value(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_of_beside_its_line() {
        for (line, name, uid) in [
            (
                r#"{"type_name":"A: B","metadata":{"uid":"7"}}"#,
                "A: B",
                Some("7"),
            ),
            (
                r#"{"type_name":"\u001b","metadata":{"uid":"\""}}"#,
                "\u{1b}",
                Some("\""),
            ),
            (r#"{"metadata":{}}"#, "", None),
            (r#"{"type_name":7}"#, "", None),
        ] {
            let record = Record {
                sequence: 5,
                time_ms: 1_760_000_000_001,
                severity: 4,
                line: line.to_owned(),
            };
            let log = log_record(&record, 3);
            assert_eq!(log.event_name, name, "{line}");
            let uids: Vec<_> = log
                .attributes
                .iter()
                .filter(|it| it.key == "log.record.uid")
                .collect();
            let wanted: Vec<_> = uid
                .map(|uid| attribute("log.record.uid", text(uid)))
                .into_iter()
                .collect();
            assert_eq!(uids, wanted.iter().collect::<Vec<_>>(), "{line}");
            assert_eq!(log.body, Some(value(text(line))));
            assert_eq!(log.time_unix_nano, 1_760_000_000_001_000_000);
            assert_eq!(
                (log.severity_number, log.severity_text.as_str()),
                (17, "High")
            );
        }
    }

    #[test]
    fn rejected_records_are_counted() {
        for (answer, wanted) in [
            (&b""[..], (0, "")),
            (b"\x0a\x00", (0, "")),
            (b"\x0a\x05\x08\x03\x12\x01x", (3, "x")),
            // A warning.
            (b"\x0a\x03\x12\x01x", (0, "x")),
            // A number below zero.
            (
                b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                (0, ""),
            ),
        ] {
            assert_eq!(
                LogsAnswer::decode(answer).unwrap().rejected(),
                wanted,
                "{answer:?}"
            );
        }
    }
}
