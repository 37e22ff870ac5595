//! Splunk's HTTP Event Collector (HEC), with indexer acknowledgement.
//!
//! That HEC answers with success means that it has taken events, not that it will still have them
//! after it was restarted. So each batch is waited for until HEC says that it is indexed: the token
//! must have "indexer acknowledgement" on. With `acknowledge = false` success is taken for enough, for
//! a Splunk that has it not.
//!
//! An event that HEC calls invalid is refused for good; the rest is sent without it, and at the end of
//! the batch an error says what was refused.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    Progress, Record, SinkError, host,
    http::{self, Answer, Client, Url, Version},
    secret::SecretPlace,
    tls::TlsSettings,
};

const CHANNEL: HeaderName = HeaderName::from_static("x-splunk-request-channel");

/// How long events may take to be indexed; then they are sent again.
const INDEX_TIMEOUT: Duration = Duration::from_secs(30);
/// How long until it is asked again whether they are: at first, and at most.
const POLL_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Codes of HEC that are about one event: its format, its `event`, its fields. That an index is
/// unknown is about the settings.
const CODES_OF_EVENTS: [u64; 4] = [6, 12, 13, 15];

/// The table of a Splunk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SplunkSettings {
    /// Where HEC is, without `/services/collector`: `https://splunk.example.com:8088`.
    pub url: Url,
    /// The token of HEC.
    pub token: SecretPlace,
    /// The index, where it is not the token's own.
    pub index: Option<String>,
    /// The `source` of events.
    #[serde(default = "default_source")]
    pub source: String,
    /// Their `sourcetype`.
    #[serde(default = "default_sourcetype")]
    pub sourcetype: String,
    /// Whether to wait until events are indexed.
    #[serde(default = "default_acknowledge")]
    pub acknowledge: bool,
    /// TLS, where the host's own authorities do not do.
    pub tls: Option<TlsSettings>,
}

fn default_source() -> String {
    "agentguard".to_owned()
}

fn default_sourcetype() -> String {
    "agentguard:ocsf".to_owned()
}

const fn default_acknowledge() -> bool {
    true
}

/// Sends records to HEC.
#[derive(Debug)]
pub struct Splunk {
    settings: SplunkSettings,
    client: Client,
    /// What acknowledgements are numbered within. There is a new one after each error, so that no
    /// number is taken for that of an earlier attempt.
    channel: Uuid,
    pending: Option<Pending>,
}

/// Events that HEC has taken and may not have indexed. They outlive a call that was given up: an
/// indexer that takes longer than a call may would otherwise get them for ever.
#[derive(Clone, Copy, Debug)]
struct Pending {
    first: u64,
    last: u64,
    id: u64,
    until: Instant,
}

impl Pending {
    /// How many of `records` these are, if they begin with them.
    fn count_in(&self, records: &[Record]) -> Option<usize> {
        let begins = records.first().is_some_and(|it| it.sequence == self.first);
        let last = records.iter().position(|it| it.sequence == self.last);
        last.filter(|_| begins).map(|last| last + 1)
    }
}

/// What HEC says of a batch.
enum Verdict {
    /// It is done.
    Taken,
    /// It is, once this number is acknowledged.
    TakenAs(u64),
    /// The event at this place is invalid, and none was taken.
    Invalid(usize, SinkError),
}

#[derive(Deserialize)]
struct HecAnswer {
    code: u64,
    #[serde(rename = "ackId")]
    ack_id: Option<u64>,
    #[serde(rename = "invalid-event-number")]
    invalid: Option<usize>,
}

#[derive(Deserialize)]
struct Acknowledgements {
    acks: HashMap<String, bool>,
}

impl Splunk {
    /// One that connects when there is something to deliver.
    #[must_use]
    pub fn new(settings: SplunkSettings) -> Self {
        let client = Client::new(settings.url.clone(), settings.tls.clone(), Version::One);
        Self {
            settings,
            client,
            channel: Uuid::now_v7(),
            pending: None,
        }
    }

    /// Sends `records`, and returns once they are indexed.
    ///
    /// # Errors
    ///
    /// If HEC is not there, does not take them or does not index them in time; and, with all of them
    /// done, if it refused some for good.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        match self.deliver_valid(records, progress).await {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => Err(refusal),
            Err(error) => {
                self.client.disconnect();
                self.pending = None;
                self.channel = Uuid::now_v7();
                Err(error)
            }
        }
    }

    /// Ends the connection, within a few seconds.
    pub async fn close(&mut self) {
        self.client.close().await;
    }

    /// Returns what HEC said of the last event that it refused, if it did.
    async fn deliver_valid(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<Option<SinkError>, SinkError> {
        let mut refusal = None;
        // Before an invalid event go those that are not.
        let mut limit = usize::MAX;
        while progress.done < records.len() {
            let rest = &records[progress.done..];
            if let Some((pending, count)) = self
                .pending
                .and_then(|pending| Some((pending, pending.count_in(rest)?)))
            {
                self.wait_for(pending).await?;
                self.pending = None;
                progress.done += count;
                continue;
            }
            let part = &rest[..limit.min(rest.len())];
            limit = usize::MAX;
            match self.send(part).await? {
                Verdict::Taken => progress.done += part.len(),
                Verdict::TakenAs(id) => {
                    self.pending = Some(Pending {
                        first: part[0].sequence,
                        last: part[part.len() - 1].sequence,
                        id,
                        until: Instant::now() + INDEX_TIMEOUT,
                    });
                }
                Verdict::Invalid(0, said) => {
                    progress.done += 1;
                    progress.refused += 1;
                    refusal = Some(said);
                }
                Verdict::Invalid(place, _) => limit = place,
            }
        }
        Ok(refusal)
    }

    async fn send(&mut self, records: &[Record]) -> Result<Verdict, SinkError> {
        let body = self.events(records);
        let answer = self.post("/services/collector/event", body).await?;
        let said: Option<HecAnswer> = serde_json::from_slice(&answer.body).ok();
        if answer.status.is_success() {
            if !self.settings.acknowledge {
                return Ok(Verdict::Taken);
            }
            let id = said.and_then(|said| said.ack_id).ok_or_else(|| {
                self.client.refusal(
                    "success without an `ackId`: turn on indexer acknowledgement of the token, or \
                     write `acknowledge = false`",
                )
            })?;
            return Ok(Verdict::TakenAs(id));
        }
        let refused = self.client.refused(&answer);
        match said {
            Some(HecAnswer {
                code,
                invalid: Some(place),
                ..
            }) if answer.status == StatusCode::BAD_REQUEST
                && CODES_OF_EVENTS.contains(&code)
                && place < records.len() =>
            {
                Ok(Verdict::Invalid(place, refused))
            }
            _ => Err(refused),
        }
    }

    async fn wait_for(&mut self, pending: Pending) -> Result<(), SinkError> {
        let (mut pause, longest) = POLL_PAUSES;
        while !self.is_indexed(pending.id).await? {
            if Instant::now() + pause > pending.until {
                return Err(self.client.refusal(&format!(
                    "success, but has not indexed records {} to {} within {} s",
                    pending.first,
                    pending.last,
                    INDEX_TIMEOUT.as_secs()
                )));
            }
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
        Ok(())
    }

    async fn is_indexed(&mut self, id: u64) -> Result<bool, SinkError> {
        let path = format!("/services/collector/ack?channel={}", self.channel);
        let question = json!({"acks": [id]}).to_string();
        let answer = self.post(&path, question.into()).await?;
        if !answer.status.is_success() {
            return Err(self.client.refused(&answer));
        }
        let said: Acknowledgements = serde_json::from_slice(&answer.body)
            .map_err(|_unreadable| self.client.refused(&answer))?;
        Ok(said.acks.get(&id.to_string()).copied().unwrap_or(false))
    }

    async fn post(&mut self, path: &str, body: Bytes) -> Result<Answer, SinkError> {
        let mut headers = HeaderMap::new();
        let token = http::authorization("Splunk", &self.settings.token)?;
        headers.insert(AUTHORIZATION, token);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let channel = HeaderValue::from_str(&self.channel.to_string())
            .map_err(|error| SinkError::Settings(error.to_string()))?;
        headers.insert(CHANNEL, channel);
        self.client.post(path, headers, body).await
    }

    /// Event objects, a line each.
    fn events(&self, records: &[Record]) -> Bytes {
        let mut origin = json!({
            "host": host::name(),
            "source": self.settings.source,
            "sourcetype": self.settings.sourcetype,
        });
        if let Some(index) = &self.settings.index {
            origin["index"] = json!(index);
        }
        let origin = origin.to_string();
        let origin = &origin[1..origin.len() - 1];
        let mut body = String::new();
        for Record { time_ms, line, .. } in records {
            let (seconds, rest) = (time_ms.div_euclid(1_000), time_ms.rem_euclid(1_000));
            // Writing to a `String` cannot fail.
            writeln!(
                body,
                r#"{{"time":{seconds}.{rest:03},{origin},"event":{line}}}"#
            )
            .ok();
        }
        body.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn record(sequence: u64) -> Record {
        Record {
            sequence,
            time_ms: 1_760_000_000_007,
            severity: 1,
            line: r#"{"number":1}"#.to_owned(),
        }
    }

    #[test]
    fn events_are_objects_with_their_origin() {
        let settings: SplunkSettings = serde_json::from_value(json!({
            "url": "https://splunk:8088", "token": {"file": "/t"}, "index": "\"main\"",
        }))
        .unwrap();
        assert!(settings.acknowledge);
        let body = Splunk::new(settings).events(&[record(1), record(2)]);
        let lines: Vec<&[u8]> = body.trim_ascii_end().split(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with(br#"{"time":1760000000.007,"#));
        let event: Value = serde_json::from_slice(lines[0]).unwrap();
        assert_eq!(event["event"], json!({"number": 1}));
        assert_eq!(event["index"], "\"main\"");
        assert_eq!(event["sourcetype"], "agentguard:ocsf");
        assert_eq!(event["host"], host::name());
    }

    #[test]
    fn what_is_pending_is_found_again() {
        let records: Vec<_> = (5..10).map(record).collect();
        for (first, last, wanted) in [
            (5, 7, Some(3)),
            (5, 9, Some(5)),
            (5, 10, None),
            (4, 7, None),
            (6, 7, None),
        ] {
            let pending = Pending {
                first,
                last,
                id: 0,
                until: Instant::now(),
            };
            assert_eq!(pending.count_in(&records), wanted, "{first} to {last}");
        }
    }
}
