//! Kafka: records as messages of a topic, done when all in-sync replicas have them.
//!
//! A message's value is the line of a record, its time the record's, and its header
//! `agentguard-sequence` the record's number. With a `partition` all go there, in order. Without one
//! blocks of 256 records go to each partition of the topic in turn, by their numbers: within a partition
//! they are in order, and a record that is sent again goes where it went before.
//!
//! The producer is not idempotent: what a broker had when a connection broke may be there twice. Messages
//! are not compressed, and brokers that want SASL are not supported; those that know clients by their
//! certificates are.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::Duration,
};

use rskafka::{
    BackoffConfig,
    chrono::DateTime,
    client::{
        Client, ClientBuilder,
        error::Error as KafkaError,
        partition::{Compression, PartitionClient, UnknownTopicHandling},
    },
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{Progress, Record, SinkError, http::with_causes, tls::TlsSettings};
use crate::audit::escape::escape;

/// How long it may take until a connection is there, and what is asked of it first is known.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long brokers may take to acknowledge messages.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of an answer. That to what topics there are grows with the cluster.
const ANSWER_BYTES: usize = 8 << 20;
/// About the most bytes of a request: brokers refuse more than 1 MiB by default.
const REQUEST_BYTES: usize = 512 << 10;
/// Records that go to the same partition in a row, where there are several.
const BLOCK: u64 = 256;
/// Most bytes of what a broker said that are shown.
const SHOWN_BYTES: usize = 300;

/// How long the client pauses by itself, for a partition that moved; to more there is the caller. It
/// tries to connect, and within each try to do what it connected for.
const RETRY: Duration = Duration::from_millis(300);

const SEQUENCE: &str = "agentguard-sequence";

/// The table of a Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KafkaSettings {
    /// Brokers to begin with: the others are learned from them.
    pub brokers: Brokers,
    /// The topic; it must be there.
    pub topic: Topic,
    /// The partition that all records go to; without it they go to all partitions in turn.
    pub partition: Option<u16>,
    /// TLS, where brokers speak it; an empty table trusts the host's own authorities.
    pub tls: Option<TlsSettings>,
}

/// Brokers as `HOST:PORT`, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Brokers(Vec<String>);

impl std::fmt::Display for Brokers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0.join(","))
    }
}

impl TryFrom<Vec<String>> for Brokers {
    type Error = String;

    // What follows "expected" becomes the mend.
    fn try_from(brokers: Vec<String>) -> Result<Self, String> {
        if brokers.is_empty() {
            return Err("no broker is given, expected `HOST:PORT` of at least one".to_owned());
        }
        for broker in &brokers {
            let port = broker
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty() && !host.contains(['/', '@', ' ']))
                .and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(format!("`{broker}` is no broker, expected `HOST:PORT`"));
            }
        }
        Ok(Self(brokers))
    }
}

/// The name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Topic(String);

impl TryFrom<String> for Topic {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let is_legal = (1..=249).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && name != "."
            && name != "..";
        if is_legal {
            Ok(Self(name))
        } else {
            Err(format!(
                "`{name}` is no name of a topic, expected letters, digits, `.`, `_` and `-`"
            ))
        }
    }
}

/// Produces records to a topic.
#[derive(Debug)]
pub struct Kafka {
    settings: KafkaSettings,
    session: Option<Session>,
}

/// What is known of a cluster, and the connections to it.
#[derive(Debug)]
struct Session {
    client: Client,
    choice: Choice,
    partitions: HashMap<i32, PartitionClient>,
}

/// Which partition a record goes to.
#[derive(Clone, Debug)]
enum Choice {
    One(i32),
    /// One of these, by the record's number.
    InTurn(Vec<i32>),
}

impl Choice {
    fn of(&self, sequence: u64) -> i32 {
        match self {
            Self::One(partition) => *partition,
            Self::InTurn(partitions) => {
                let blocks = usize::try_from(sequence / BLOCK).unwrap_or(0);
                partitions[blocks % partitions.len()]
            }
        }
    }
}

impl Kafka {
    /// One that connects when there is something to deliver.
    #[must_use]
    pub const fn new(settings: KafkaSettings) -> Self {
        Self {
            settings,
            session: None,
        }
    }

    /// Sends `records` in order, and returns once all in-sync replicas have them.
    ///
    /// # Errors
    ///
    /// If no broker is there, or one does not take them.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        // It is put back only after success: this future may be dropped before.
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.limit(CONNECT_TIMEOUT, self.open()).await?,
        };
        while progress.done < records.len() {
            let (partition, part) = part(&records[progress.done..], &session.choice);
            let partition = match session.partitions.remove(&partition) {
                Some(known) => known,
                None => {
                    let opening = self.open_partition(&session.client, partition);
                    self.limit(CONNECT_TIMEOUT, opening).await?
                }
            };
            self.limit(ANSWER_TIMEOUT, self.produce(&partition, part))
                .await?;
            session.partitions.insert(partition.partition(), partition);
            progress.done += part.len();
        }
        self.session = Some(session);
        Ok(())
    }

    /// Ends the connections. Kafka has no farewell.
    pub async fn close(&mut self) {
        self.session = None;
    }

    async fn open(&self) -> Result<Session, SinkError> {
        let mut builder = ClientBuilder::new(self.settings.brokers.0.clone())
            .client_id("agentguard")
            .max_message_size(ANSWER_BYTES)
            .backoff_config(BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: RETRY,
                base: 2.0,
                deadline: Some(RETRY),
            });
        if let Some(tls) = &self.settings.tls {
            if tls.server_name.is_some() {
                return Err(SinkError::Settings(
                    "`tls.server-name` is not for Kafka, whose brokers each have a name: remove it"
                        .to_owned(),
                ));
            }
            builder = builder.tls_config(Arc::new(tls.client_config()?));
        }
        let client = builder
            .build()
            .await
            .map_err(|error| self.failure("connect to", &error))?;
        let choice = match self.settings.partition {
            Some(partition) => Choice::One(partition.into()),
            None => Choice::InTurn(self.partitions(&client).await?),
        };
        Ok(Session {
            client,
            choice,
            partitions: HashMap::new(),
        })
    }

    async fn partitions(&self, client: &Client) -> Result<Vec<i32>, SinkError> {
        let topics = client
            .list_topics()
            .await
            .map_err(|error| self.failure("ask", &error))?;
        let topic = topics
            .into_iter()
            .find(|it| it.name == self.settings.topic.0);
        let partitions: Vec<i32> = topic
            .map(|topic| topic.partitions.into_iter().collect())
            .unwrap_or_default();
        if partitions.is_empty() {
            return Err(SinkError::Answer {
                receiver: self.receiver(),
                answer: format!("that there is no topic `{}`", self.settings.topic.0),
            });
        }
        Ok(partitions)
    }

    async fn open_partition(
        &self,
        client: &Client,
        partition: i32,
    ) -> Result<PartitionClient, SinkError> {
        let topic = self.settings.topic.0.as_str();
        client
            .partition_client(topic, partition, UnknownTopicHandling::Error)
            .await
            .map_err(|error| self.failure("connect to", &error))
    }

    async fn produce(
        &self,
        partition: &PartitionClient,
        records: &[Record],
    ) -> Result<(), SinkError> {
        let messages = records.iter().map(message).collect();
        partition
            .produce(messages, Compression::NoCompression)
            .await
            .map_err(|error| self.failure("send to", &error))?;
        Ok(())
    }

    /// What `doing` returns, if it does so in time.
    async fn limit<T>(
        &self,
        limit: Duration,
        doing: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        timeout(limit, doing)
            .await
            .map_err(|_elapsed| SinkError::TimedOut {
                receiver: self.receiver(),
                seconds: limit.as_secs(),
            })?
    }

    fn receiver(&self) -> String {
        self.settings.brokers.0.join(",")
    }

    fn failure(&self, action: &'static str, error: &KafkaError) -> SinkError {
        let receiver = self.receiver();
        let cut = |text: &str| escape(text.as_bytes(), SHOWN_BYTES).text;
        if let KafkaError::ServerError {
            protocol_error,
            error_message,
            ..
        } = error
        {
            let said = error_message.as_deref().unwrap_or_default();
            let answer = cut(format!("{protocol_error:?} {said}").trim_end());
            return SinkError::Answer { receiver, answer };
        }
        SinkError::Unreachable {
            receiver,
            action,
            source: io::Error::other(cut(&with_causes(error))),
        }
    }
}

/// The first of `records` that go to one partition in one request, and that partition.
fn part<'a>(records: &'a [Record], choice: &Choice) -> (i32, &'a [Record]) {
    let partition = records.first().map_or(0, |it| choice.of(it.sequence));
    let mut bytes = 0;
    let fits = records.iter().take_while(|record| {
        bytes += record.line.len();
        bytes <= REQUEST_BYTES && choice.of(record.sequence) == partition
    });
    // However long a line is, it goes.
    let count = fits.count().max(1).min(records.len());
    (partition, &records[..count])
}

fn message(record: &Record) -> rskafka::record::Record {
    rskafka::record::Record {
        key: None,
        value: Some(record.line.clone().into_bytes()),
        headers: BTreeMap::from([(
            SEQUENCE.to_owned(),
            record.sequence.to_string().into_bytes(),
        )]),
        timestamp: DateTime::from_timestamp_millis(record.time_ms).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_verified() {
        for (brokers, topic, wanted) in [
            (json!(["kafka-1:9092", "[::1]:9092"]), "agent.guard_1-x", ""),
            (json!([]), "a", "no broker is given, expected `HOST:PORT`"),
            (
                json!(["kafka"]),
                "a",
                "`kafka` is no broker, expected `HOST:PORT`",
            ),
            (json!(["kafka:0"]), "a", "`kafka:0` is no broker, expected"),
            (json!([":9092"]), "a", "`:9092` is no broker, expected"),
            (json!(["me:pw@kafka:9092"]), "a", "is no broker, expected"),
            (
                json!(["kafka:9092"]),
                "a b",
                "`a b` is no name of a topic, expected letters",
            ),
            (
                json!(["kafka:9092"]),
                "..",
                "`..` is no name of a topic, expected letters",
            ),
        ] {
            let table = json!({"brokers": brokers, "topic": topic});
            let said = serde_json::from_value::<KafkaSettings>(table)
                .map_or_else(|error| error.to_string(), |_| String::new());
            assert!(
                said.contains(wanted) && said.is_empty() == wanted.is_empty(),
                "{said}"
            );
        }
    }

    #[test]
    fn parts_are_of_one_partition_and_not_too_long() {
        let record = |sequence, length| Record {
            sequence,
            time_ms: 0,
            severity: 1,
            line: "x".repeat(length),
        };
        let in_turn = Choice::InTurn(vec![4, 7, 9]);
        let long = REQUEST_BYTES / 2;
        for (choice, records, wanted) in [
            (&Choice::One(3), vec![record(1, 9), record(300, 9)], (3, 2)),
            (&in_turn, vec![record(255, 9), record(256, 9)], (4, 1)),
            (
                &in_turn,
                vec![record(256, 9), record(511, 9), record(512, 9)],
                (7, 2),
            ),
            (&in_turn, vec![record(768, 9)], (4, 1)),
            (
                &Choice::One(3),
                vec![record(1, long), record(2, long), record(3, 1)],
                (3, 2),
            ),
            (
                &Choice::One(3),
                vec![record(1, 2 * long + 1), record(2, 1)],
                (3, 1),
            ),
        ] {
            let (partition, part) = part(&records, choice);
            assert_eq!((partition, part.len()), wanted);
            assert_eq!(part, &records[..part.len()]);
        }
    }
}
