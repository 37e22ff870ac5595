//! Drives a transport as the daemon does, while its receiver is killed and stalled.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use agentguard_daemon::sink::{
    Progress, Record, SinkError, kafka::Kafka, otlp::Otlp, splunk::Splunk, webhook::Webhook,
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::receiver::Receiver;

/// Records of a batch, and about how many bytes it may have.
const BATCH: (usize, usize) = (512, 1 << 20);
/// After this long a call is given up, and its future dropped.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long the test has failed.
const PATIENCE: Duration = Duration::from_secs(100);

/// The transports have this in common.
pub(crate) trait Transport {
    async fn deliver(&mut self, batch: &[Record], progress: &mut Progress)
    -> Result<(), SinkError>;
    async fn close(&mut self);
}

macro_rules! transports {
    ($($transport:ty),*) => {$(
        impl Transport for $transport {
            async fn deliver(
                &mut self,
                batch: &[Record],
                progress: &mut Progress,
            ) -> Result<(), SinkError> {
                self.deliver(batch, progress).await
            }

            async fn close(&mut self) {
                self.close().await;
            }
        }
    )*};
}

transports!(Kafka, Otlp, Splunk, Webhook);

/// How a delivery went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub calls: usize,
    pub refused: usize,
    /// Calls that were given up.
    pub given_up: usize,
    /// What the others failed with.
    pub errors: Vec<String>,
    pub took: Duration,
}

/// Delivers all `records` and ends the connection; says over `done` how far it has come.
pub(crate) async fn drive(
    transport: &mut impl Transport,
    records: &[Record],
    done: &watch::Sender<usize>,
) -> Outcome {
    let begun = Instant::now();
    let mut outcome = Outcome::default();
    let mut at = 0;
    while at < records.len() {
        assert!(begun.elapsed() < PATIENCE, "stuck at {at}: {outcome:#?}");
        let mut progress = Progress::default();
        let call = transport.deliver(batch(&records[at..]), &mut progress);
        let result = timeout(CALL_TIMEOUT, call).await;
        outcome.calls += 1;
        outcome.refused += progress.refused;
        at += progress.done;
        done.send_replace(at);
        match result {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => outcome.errors.push(error.to_string()),
            Err(_) => outcome.given_up += 1,
        }
        sleep(Duration::from_millis(100)).await;
    }
    transport.close().await;
    outcome.took = begun.elapsed();
    outcome
}

fn batch(rest: &[Record]) -> &[Record] {
    let mut bytes = 0;
    let fits = rest.iter().take(BATCH.0).take_while(|record| {
        bytes += record.line.len();
        bytes <= BATCH.1
    });
    &rest[..fits.count().max(1)]
}

/// Delivers, and meanwhile kills the receiver and begins it anew, then stalls it for longer than a call
/// may take.
pub(crate) async fn drive_through_trouble(
    transport: &mut impl Transport,
    records: &[Record],
    receiver: &mut Receiver,
) -> Outcome {
    let (sender, mut done) = watch::channel(0);
    let trouble = async {
        done.wait_for(|&at| at >= records.len() / 4).await.unwrap();
        sleep(Duration::from_millis(30)).await;
        receiver.kill();
        sleep(Duration::from_millis(300)).await;
        receiver.restart();
        done.wait_for(|&at| at >= records.len() / 2).await.unwrap();
        sleep(Duration::from_millis(30)).await;
        receiver.stall();
        sleep(CALL_TIMEOUT + Duration::from_secs(1)).await;
        receiver.resume();
    };
    let (outcome, ()) = tokio::join!(drive(transport, records, &sender), trouble);
    println!("{outcome:?}");
    assert!(!outcome.errors.is_empty(), "the kill went by unnoticed");
    assert!(outcome.given_up > 0, "the stall went by unnoticed");
    outcome
}

/// Delivers to a receiver that is left alone: no call may fail.
pub(crate) async fn drive_in_peace(transport: &mut impl Transport, records: &[Record]) -> Outcome {
    let outcome = drive(transport, records, &watch::channel(0).0).await;
    println!("{outcome:?}");
    assert_eq!((outcome.errors.len(), outcome.given_up), (0, 0));
    outcome
}

/// What one failing delivery says.
pub(crate) async fn failure(transport: &mut impl Transport) -> String {
    let mut progress = Progress::default();
    let result = transport.deliver(&records(3), &mut progress).await;
    transport.close().await;
    assert_eq!(progress, Progress::default());
    result.unwrap_err().to_string()
}

/// Records with numbers from 1; every hundredth is hostile.
pub(crate) fn records(count: u32) -> Vec<Record> {
    let long = "\u{65e5}\\\"".repeat(1_130);
    let hostile = [
        "",
        "\u{1b}[2J\r\n\u{0}\u{7f}\u{9b}31m",
        "\n{\"number\":1}\n",
        "caf\u{e9} \u{65e5}\u{672c} \u{1f600} \u{202e}txt \u{feff}",
        "'\"`\\ </script> %00 ${jndi:ldap://x} {{7*7}} <34>1 - ",
        long.as_str(),
    ];
    let record = |number: u32| {
        let text = match number % 100 {
            0 => hostile[number as usize / 100 % hostile.len()],
            _ => "connection allowed",
        };
        let event = json!({
            "number": number,
            "time": 1_760_000_000_000 + i64::from(number),
            "severity_id": number.to_le_bytes()[0] % 5 + 1,
            "type_name": "Network Activity: Open",
            "type_uid": 400_101,
            "metadata": {"uid": format!("0199-{number:08}"), "version": "1.8.0"},
            "message": text,
        });
        // As the daemon writes them: nothing that a terminal obeys.
        let line: String = event
            .to_string()
            .chars()
            .map(|c| match c {
                '\u{7f}'..='\u{9f}' => format!("\\u{:04x}", u32::from(c)),
                _ => c.to_string(),
            })
            .collect();
        assert!(!line.chars().any(char::is_control) && line.len() < 8 << 10);
        Record {
            sequence: number.into(),
            time_ms: 1_760_000_000_000 + i64::from(number),
            severity: number.to_le_bytes()[0] % 5 + 1,
            line,
        }
    };
    (1..=count).map(record).collect()
}

/// Asserts that every record arrived, whole and in order; returns how many came again.
pub(crate) fn assert_all_arrived(records: &[Record], received: &[Value]) -> usize {
    assert_arrived(records, received, |_| true)
}

/// The same of those that `wanted` picks; no other may arrive.
pub(crate) fn assert_arrived(
    records: &[Record],
    received: &[Value],
    wanted: impl Fn(&Record) -> bool,
) -> usize {
    let wanted: BTreeMap<u64, Value> = records
        .iter()
        .filter(|record| wanted(record))
        .map(|record| (record.sequence, serde_json::from_str(&record.line).unwrap()))
        .collect();
    let mut first_seen = Vec::new();
    let mut seen = BTreeMap::<u64, usize>::new();
    for value in received {
        let number = value["number"].as_u64().unwrap();
        assert_eq!(wanted.get(&number), Some(value), "record {number}");
        let times = seen.entry(number).or_default();
        *times += 1;
        if *times == 1 {
            first_seen.push(number);
        }
    }
    let missing: Vec<_> = wanted.keys().filter(|it| !seen.contains_key(it)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    assert!(first_seen.is_sorted(), "out of order");
    let again = received.len() - wanted.len();
    println!("{} arrived, {again} of them again", received.len());
    again
}
