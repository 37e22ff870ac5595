//! Sinks: where records go once they are in the history. A sink knows records and nothing of what is
//! in them.
//!
//! Each transport takes records in order by `deliver`, which returns once they are acknowledged, or
//! written where the protocol has no acknowledgement. How far it came is told also when it fails, or
//! when its future is dropped: what is not done is sent again. [`crate::delivery`] drives them.

#![forbid(unsafe_code)]

pub mod connection;
pub mod file;
mod host;
pub mod http;
pub mod journald;
pub mod kafka;
pub mod otlp;
pub mod relp;
pub mod rotate;
pub mod secret;
pub mod splunk;
pub mod stdout;
pub mod syslog;
pub mod tls;
pub mod webhook;

use std::io;

use self::{
    file::{FileSettings, FileSink},
    journald::{Journald, JournaldSettings},
    kafka::{Kafka, KafkaSettings},
    otlp::{Otlp, OtlpSettings},
    relp::{Relp, RelpSettings},
    splunk::{Splunk, SplunkSettings},
    stdout::{Stdout, StdoutSettings},
    syslog::{Syslog, SyslogSettings},
    webhook::{Webhook, WebhookSettings},
};

/// Why a sink did not accept what it was given.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The target is not a file that is ours alone.
    #[error("audit file `{path}` refused: {why}")]
    Refused {
        /// The target.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system refused.
    #[error("cannot {action} {target}: {source}")]
    Io {
        /// A file, or `stdout`.
        target: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What a person has to mend: a file of a certificate, a secret, a name.
    #[error("{0}")]
    Settings(String),
    /// The receiver is not there, or went away.
    #[error("cannot {action} {receiver}: {source}")]
    Unreachable {
        /// Whom: `siem.example.com:6514`.
        receiver: String,
        /// What was tried: `connect to`, `send to`.
        action: &'static str,
        /// What the system or TLS said.
        source: io::Error,
    },
    /// The receiver said no, or something that is no answer.
    #[error("{receiver} answered {answer}")]
    Answer {
        /// Whom.
        receiver: String,
        /// What it said, in its words, escaped and cut.
        answer: String,
    },
    /// The receiver took too long.
    #[error("{receiver} did not answer within {seconds} s")]
    TimedOut {
        /// Whom.
        receiver: String,
        /// For how long it was waited.
        seconds: u64,
    },
}

/// A record as sinks get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in the history, from 1, without gaps.
    pub sequence: u64,
    /// When it happened, Unix time in milliseconds.
    pub time_ms: i64,
    /// `severity_id` of OCSF: 1 informational, 2 low, 3 medium, 4 high, 5 critical.
    pub severity: u8,
    /// One line of OCSF JSON, without its newline; valid UTF-8 without control characters.
    pub line: String,
}

/// How far a batch has come; it counts also where the rest of it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records from the start of the batch that need not be sent again.
    pub done: usize,
    /// Of those, how many the receiver refused for good.
    pub refused: usize,
}

/// Which records a sink gets. What is empty asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these classes of OCSF.
    pub classes: Vec<u32>,
    /// With these verdicts.
    pub verdicts: Vec<String>,
    /// Of these identities.
    pub identities: Vec<String>,
    /// With this `severity_id` of OCSF at least.
    pub min_severity: u8,
}

impl Filter {
    /// Whether all records are wanted.
    #[must_use]
    pub const fn takes_all(&self) -> bool {
        self.classes.is_empty()
            && self.verdicts.is_empty()
            && self.identities.is_empty()
            && self.min_severity <= 1
    }

    /// Whether a record of this class, severity, verdict and identity is wanted. One that has no verdict
    /// or identity is not, where one is asked for.
    #[must_use]
    pub fn matches(
        &self,
        class: u32,
        severity: u8,
        verdict: Option<&str>,
        identity: Option<&str>,
    ) -> bool {
        let is_among = |wanted: &[String], value: Option<&str>| {
            wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|it| it == value))
        };
        (self.classes.is_empty() || self.classes.contains(&class))
            && severity >= self.min_severity
            && is_among(&self.verdicts, verdict)
            && is_among(&self.identities, identity)
    }
}

/// How a sink is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SinkStatus {
    /// Its name in the settings.
    pub name: String,
    /// Where it goes: `file /var/log/agentguard/events.jsonl`.
    pub target: String,
    /// Records that it has had since the daemon started.
    pub delivered: u64,
    /// Of those, records that the receiver refused for good.
    pub refused: u64,
    /// Records in the history that it does not have yet.
    pub waiting: u64,
    /// Attempts that failed since the daemon started.
    pub retries: u64,
    /// Why the last attempt failed, until one succeeds.
    pub last_error: Option<String>,
}

/// Where a sink goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportSettings {
    /// Standard output.
    Stdout(StdoutSettings),
    /// A file.
    File(FileSettings),
    /// The journal of systemd.
    Journald(JournaldSettings),
    /// A syslog server.
    Syslog(SyslogSettings),
    /// A RELP server.
    Relp(RelpSettings),
    /// A collector of OpenTelemetry.
    Otlp(OtlpSettings),
    /// Splunk's event collector.
    Splunk(SplunkSettings),
    /// An HTTP server.
    Webhook(WebhookSettings),
    /// Kafka.
    Kafka(KafkaSettings),
}

/// A way to a receiver.
#[derive(Debug)]
pub enum Transport {
    /// Standard output.
    Stdout(Stdout),
    /// A file.
    File(FileSink),
    /// The journal of systemd.
    Journald(Box<Journald>),
    /// A syslog server.
    Syslog(Box<Syslog>),
    /// A RELP server.
    Relp(Box<Relp>),
    /// A collector of OpenTelemetry.
    Otlp(Box<Otlp>),
    /// Splunk's event collector.
    Splunk(Box<Splunk>),
    /// An HTTP server.
    Webhook(Box<Webhook>),
    /// Kafka.
    Kafka(Box<Kafka>),
}

impl From<TransportSettings> for Transport {
    fn from(settings: TransportSettings) -> Self {
        match settings {
            TransportSettings::Stdout(settings) => Self::Stdout(Stdout::new(settings)),
            TransportSettings::File(settings) => Self::File(FileSink::new(settings)),
            TransportSettings::Journald(settings) => {
                Self::Journald(Box::new(Journald::new(settings)))
            }
            TransportSettings::Syslog(settings) => Self::Syslog(Box::new(Syslog::new(settings))),
            TransportSettings::Relp(settings) => Self::Relp(Box::new(Relp::new(settings))),
            TransportSettings::Otlp(settings) => Self::Otlp(Box::new(Otlp::new(settings))),
            TransportSettings::Splunk(settings) => Self::Splunk(Box::new(Splunk::new(settings))),
            TransportSettings::Webhook(settings) => Self::Webhook(Box::new(Webhook::new(settings))),
            TransportSettings::Kafka(settings) => Self::Kafka(Box::new(Kafka::new(settings))),
        }
    }
}

impl TransportSettings {
    /// Where that is, for people.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Stdout(_) => "stdout".to_owned(),
            Self::File(file) => format!("file {}", file.path.display()),
            Self::Journald(journald) => format!("journald {}", journald.socket.display()),
            Self::Syslog(syslog) => match &syslog.server {
                syslog::Server::Stream(address, None) => format!("syslog {address}"),
                syslog::Server::Stream(address, Some(_)) => format!("syslog {address} (TLS)"),
                syslog::Server::Socket(path) => format!("syslog {}", path.display()),
            },
            Self::Relp(relp) => format!("relp {}", relp.address),
            Self::Otlp(otlp) => format!("otlp {}", otlp.url),
            Self::Splunk(splunk) => format!("splunk {}", splunk.url),
            Self::Webhook(webhook) => format!("webhook {}", webhook.url),
            Self::Kafka(kafka) => format!("kafka {}", kafka.brokers),
        }
    }
}

impl Transport {
    /// Sends `records`, and says in `progress` how far that came.
    ///
    /// # Errors
    ///
    /// If not all are done. The same can be tried again.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        match self {
            Self::Stdout(it) => it.deliver(records, progress).await,
            Self::File(it) => it.deliver(records, progress),
            Self::Journald(it) => it.deliver(records, progress).await,
            Self::Syslog(it) => it.deliver(records, progress).await,
            Self::Relp(it) => it.deliver(records, progress).await,
            Self::Otlp(it) => it.deliver(records, progress).await,
            Self::Splunk(it) => it.deliver(records, progress).await,
            Self::Webhook(it) => it.deliver(records, progress).await,
            Self::Kafka(it) => it.deliver(records, progress).await,
        }
    }

    /// Lets go of what was opened, so that the next delivery opens it anew.
    pub async fn close(&mut self) {
        match self {
            Self::Stdout(_) => {}
            Self::File(file) => file.close(),
            Self::Journald(it) => it.close().await,
            Self::Syslog(it) => it.close().await,
            Self::Relp(it) => it.close().await,
            Self::Otlp(it) => it.close().await,
            Self::Splunk(it) => it.close().await,
            Self::Webhook(it) => it.close().await,
            Self::Kafka(it) => it.close().await,
        }
    }
}

#[cfg(test)]
mod tests;
