//! The settings of the history and of sinks.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    control::VerdictName,
    history::{OnFull, Retention},
    sink::{
        Filter, TransportSettings,
        file::FileSettings,
        journald::JournaldSettings,
        kafka::KafkaSettings,
        otlp::OtlpSettings,
        relp::RelpSettings,
        secret::SecretPlace,
        splunk::SplunkSettings,
        stdout::StdoutSettings,
        syslog::{Server, SyslogSettings},
        webhook::WebhookSettings,
    },
    size::Size,
};

/// The `history` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct HistorySettings {
    /// Most bytes of all its files.
    #[serde(deserialize_with = "enough")]
    pub max_size: Size,
    /// Days that a record is kept.
    #[serde(deserialize_with = "a_day")]
    pub max_days: u32,
    /// What happens when that is not enough for what some sink does not have yet.
    pub on_full: OnFull,
}

/// Less would be forgotten before it can be read.
const LEAST: u64 = 1 << 20;

fn enough<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    let size = Size::deserialize(deserializer)?;
    if size.0 < LEAST {
        return Err(D::Error::custom(
            "the history would hold nothing, expected `1MiB` or more",
        ));
    }
    Ok(size)
}

fn a_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let days = u32::deserialize(deserializer)?;
    if days == 0 {
        return Err(D::Error::custom(
            "the history would hold nothing, expected 1 or more",
        ));
    }
    Ok(days)
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self {
            max_size: Size(2 << 30),
            max_days: 30,
            on_full: OnFull::DropOldest,
        }
    }
}

impl From<&HistorySettings> for Retention {
    fn from(settings: &HistorySettings) -> Self {
        Self {
            max_bytes: settings.max_size.0,
            max_days: settings.max_days,
            on_full: settings.on_full,
        }
    }
}

/// The sinks by name.
pub type Sinks = BTreeMap<String, SinkSettings>;

/// A sink: where records go, and which.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SinkTable")]
pub struct SinkSettings {
    /// Where.
    pub transport: TransportSettings,
    /// Which.
    pub filter: Filter,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SinkTable {
    stdout: Option<StdoutSettings>,
    file: Option<FileSettings>,
    journald: Option<JournaldSettings>,
    syslog: Option<SyslogSettings>,
    relp: Option<RelpSettings>,
    otlp: Option<OtlpSettings>,
    splunk: Option<SplunkSettings>,
    webhook: Option<WebhookSettings>,
    kafka: Option<KafkaSettings>,
    #[serde(default)]
    classes: Vec<u32>,
    #[serde(default)]
    verdicts: Vec<VerdictName>,
    #[serde(default)]
    identities: Vec<String>,
    #[serde(default)]
    min_severity: Severity,
}

/// `severity_id` of OCSF by name.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Severity {
    #[default]
    Informational = 1,
    Low = 2,
    Medium = 3,
    High = 4,
    Critical = 5,
}

impl TryFrom<SinkTable> for SinkSettings {
    type Error = &'static str;

    // What follows "expected" becomes the mend, see `diagnose`.
    fn try_from(table: SinkTable) -> Result<Self, Self::Error> {
        let mut all = [
            table.stdout.map(TransportSettings::Stdout),
            table.file.map(TransportSettings::File),
            table.journald.map(TransportSettings::Journald),
            table.syslog.map(TransportSettings::Syslog),
            table.relp.map(TransportSettings::Relp),
            table.otlp.map(TransportSettings::Otlp),
            table.splunk.map(TransportSettings::Splunk),
            table.webhook.map(TransportSettings::Webhook),
            table.kafka.map(TransportSettings::Kafka),
        ]
        .into_iter()
        .flatten();
        let transport = all.next().ok_or(
            "the sink goes nowhere, expected a table in it that says where to, as in `file = { path = \"/var/log/agentguard/events.jsonl\" }`",
        )?;
        if all.next().is_some() {
            return Err("the sink goes to two places, expected one; make it two sinks");
        }
        Ok(Self {
            transport,
            filter: Filter {
                classes: table.classes,
                verdicts: table
                    .verdicts
                    .into_iter()
                    .map(|verdict| verdict.name().to_owned())
                    .collect(),
                identities: table.identities,
                min_severity: table.min_severity as u8,
            },
        })
    }
}

impl SinkSettings {
    /// The paths in it, by their keys.
    pub(super) fn paths(&self) -> Vec<(&'static str, &Path)> {
        let (mut paths, tls) = match &self.transport {
            TransportSettings::Stdout(_) => (Vec::new(), None),
            TransportSettings::File(file) => (vec![("file.path", file.path.as_path())], None),
            TransportSettings::Journald(journald) => {
                (vec![("journald.socket", journald.socket.as_path())], None)
            }
            TransportSettings::Syslog(syslog) => match &syslog.server {
                Server::Stream(_, tls) => (Vec::new(), tls.as_ref()),
                Server::Socket(path) => (vec![("syslog.socket", path.as_path())], None),
            },
            TransportSettings::Relp(relp) => (Vec::new(), relp.tls.as_ref()),
            TransportSettings::Otlp(otlp) => (secret(otlp.token.as_ref()), otlp.tls.as_ref()),
            TransportSettings::Splunk(splunk) => (secret(Some(&splunk.token)), splunk.tls.as_ref()),
            TransportSettings::Webhook(webhook) => {
                let mut paths = secret(webhook.token.as_ref());
                paths.extend(secret(webhook.signing_key.as_ref()));
                (paths, webhook.tls.as_ref())
            }
            TransportSettings::Kafka(kafka) => (Vec::new(), kafka.tls.as_ref()),
        };
        if let Some(tls) = tls {
            for (key, path) in [
                ("tls.ca", &tls.ca),
                ("tls.certificate", &tls.certificate),
                ("tls.key", &tls.key),
            ] {
                paths.extend(path.iter().map(|path| (key, path.as_path())));
            }
        }
        paths
    }
}

fn secret(place: Option<&SecretPlace>) -> Vec<(&'static str, &Path)> {
    match place {
        Some(SecretPlace::File(path)) => vec![("secret", path)],
        Some(SecretPlace::Credential(_)) | None => Vec::new(),
    }
}
