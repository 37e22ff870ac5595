//! Records, a driver that sends them as the daemon does, and what of them arrived.

use std::{
    cell::Cell,
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use agentguard_daemon::sink::{
    Progress, Record, SinkError, journald::Journald, relp::Relp, syslog::Syslog,
};
use serde_json::{Value, json};

use crate::program::{PATIENCE, Program};

/// How many records a test sends.
pub(crate) const RECORDS: u64 = 10_000;
/// Most records of a call.
const BATCH: usize = 512;
/// After which a call is dropped.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a receiver is stalled: calls are dropped meanwhile.
const STALL: Duration = Duration::from_secs(5);

/// What has gone wrong elsewhere, or looks like the protocol.
const HOSTILE: [&str; 10] = [
    "\u{1b}[2J\r\n\t\u{7f}\u{9b}",
    "ü 漢字 😀 \u{202e}\u{feff}",
    "\"quoted\" \\ \\n \\u0041 '",
    "<13>1 - - - - - - x",
    "12 <13>1 - h a - - - x",
    "] [meta sequenceId=\"1\"] -",
    "2 syslog 3 abc",
    "@cee: {\"n\":1}",
    "%msg% ${MSG} $(rm) #",
    " leading and trailing ",
];

/// Records with numbers from `first`, of 100 bytes to 8 KiB.
pub(crate) fn records(first: u64, count: u64) -> Vec<Record> {
    (first..first + count)
        .map(|sequence| {
            let text = HOSTILE[usize::try_from(sequence).unwrap() % HOSTILE.len()];
            let length = match sequence % 100 {
                0 => 8_000,
                1..20 => 900,
                _ => 100,
            };
            let event = json!({
                "n": sequence,
                "text": text,
                "nested": { "empty": {}, "list": [1, -2, 0.5, null, true], "": "" },
                "filler": "x".repeat(length),
            });
            // Control characters beyond C0 are escaped by whoever writes lines.
            let line = event
                .to_string()
                .replace('\u{7f}', "\\u007f")
                .replace('\u{9b}', "\\u009b");
            assert!(line.len() <= 8 << 10 && !line.chars().any(char::is_control));
            Record {
                sequence,
                time_ms: 1_700_000_000_000 + i64::try_from(sequence).unwrap(),
                severity: u8::try_from(sequence % 5).unwrap() + 1,
                line,
            }
        })
        .collect()
}

pub(crate) enum Transport {
    Syslog(Syslog),
    Relp(Relp),
    Journald(Journald),
}

impl Transport {
    pub(crate) async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        match self {
            Self::Syslog(syslog) => syslog.deliver(records, progress).await,
            Self::Relp(relp) => relp.deliver(records, progress).await,
            Self::Journald(journald) => journald.deliver(records, progress).await,
        }
    }

    pub(crate) async fn close(&mut self) {
        match self {
            Self::Syslog(syslog) => syslog.close().await,
            Self::Relp(relp) => relp.close().await,
            Self::Journald(journald) => journald.close().await,
        }
    }
}

/// What happened on the way.
#[derive(Debug, Default)]
pub(crate) struct Passage {
    pub(crate) errors: Vec<String>,
    pub(crate) dropped_calls: usize,
}

/// Sends all records, again where that fails, and tells in `done` how far it is.
async fn drive(transport: &mut Transport, records: &[Record], done: &Cell<usize>) -> Passage {
    let mut passage = Passage::default();
    while done.get() < records.len() {
        let rest = &records[done.get()..];
        let batch = &rest[..rest.len().min(BATCH)];
        let mut progress = Progress::default();
        let call = transport.deliver(batch, &mut progress);
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(())) => assert_eq!(progress.done, batch.len()),
            Ok(Err(error)) => {
                passage.errors.push(error.to_string());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(_elapsed) => passage.dropped_calls += 1,
        }
        assert_eq!(progress.refused, 0);
        done.set(done.get() + progress.done);
        tokio::task::yield_now().await;
    }
    transport.close().await;
    passage
}

/// What is done to a receiver while it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Stall,
}

/// Sends all records through the faults, which are spread evenly.
pub(crate) async fn drive_through(
    transport: &mut Transport,
    records: &[Record],
    program: &mut Program,
    faults: &[Fault],
) -> Passage {
    let done = Cell::new(0);
    let is_over = Cell::new(false);
    let trouble = async {
        for (number, fault) in faults.iter().enumerate() {
            let start = records.len() * (number + 1) / (faults.len() + 1);
            while done.get() < start {
                if is_over.get() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Within a batch.
            tokio::time::sleep(Duration::from_millis(3)).await;
            match fault {
                Fault::Kill => {
                    program.kill();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    program.restart();
                }
                Fault::Stall => {
                    program.stall();
                    tokio::time::sleep(STALL).await;
                    program.resume();
                }
            }
        }
    };
    let driving = async {
        let passage = tokio::time::timeout(PATIENCE * 2, drive(transport, records, &done)).await;
        is_over.set(true);
        passage
    };
    let (passage, ()) = tokio::join!(driving, trouble);
    passage.unwrap_or_else(|_elapsed| {
        panic!(
            "{} of {} records are sent in time; the receiver says: {}",
            done.get(),
            records.len(),
            program.log()
        )
    })
}

/// What arrived.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    /// Numbers of those that did not.
    pub(crate) missing: Vec<u64>,
    /// Copies of those that did, beyond the first.
    pub(crate) duplicates: usize,
    /// Lines that begin with what the receiver had written of another one when it was killed.
    pub(crate) torn: usize,
}

/// Waits until all records are among the lines that `read` gives, or no more come, and compares them.
pub(crate) fn arrival(records: &[Record], read: impl Fn() -> Vec<String>) -> Arrival {
    let wanted: HashMap<u64, Value> = records
        .iter()
        .map(|record| (record.sequence, serde_json::from_str(&record.line).unwrap()))
        .collect();
    let mut count = 0;
    let mut changed = Instant::now();
    loop {
        let lines = read();
        let arrival = compare(records, &wanted, &lines);
        if lines.len() != count {
            count = lines.len();
            changed = Instant::now();
        }
        if arrival.missing.is_empty() || changed.elapsed() > Duration::from_secs(2) {
            return arrival;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn compare(records: &[Record], wanted: &HashMap<u64, Value>, lines: &[String]) -> Arrival {
    let mut copies: HashMap<u64, usize> = HashMap::new();
    let mut torn = 0;
    for line in lines {
        let half = half_record(records, line);
        torn += usize::from(half > 0);
        let event: Value =
            serde_json::from_str(&line[half..]).unwrap_or_else(|error| panic!("{error}: {line}"));
        let number = event["n"].as_u64().unwrap();
        assert_eq!(wanted.get(&number), Some(&event), "record {number}");
        *copies.entry(number).or_default() += 1;
    }
    let mut missing: Vec<u64> = wanted
        .keys()
        .copied()
        .filter(|n| !copies.contains_key(n))
        .collect();
    missing.sort_unstable();
    Arrival {
        missing,
        duplicates: lines.len() - copies.len(),
        torn,
    }
}

/// How much of `line` is the first part of a record, before a whole one.
fn half_record(records: &[Record], line: &str) -> usize {
    let start = line.rfind("{\"n\":").unwrap_or(0);
    let half = &line[..start];
    let is_half = records.iter().any(|record| record.line.starts_with(half));
    if is_half { start } else { 0 }
}

impl Arrival {
    /// Panics unless what is missing is one run: what was in flight once. That may be all from the first
    /// on, but what comes last must be there.
    pub(crate) fn assert_lost_in_flight(&self) {
        assert!(!self.missing.contains(&RECORDS), "the last is missing");
        let has_gap = self.missing.windows(2).any(|pair| pair[1] != pair[0] + 1);
        assert!(!has_gap, "more than one run is missing: {:?}", self.missing);
    }
}

#[test]
fn the_half_of_a_record_is_told_from_the_next_one() {
    let records = records(1, 2);
    let [first, second] = [0, 1].map(|index| records[index].line.as_str());
    let torn = format!("{}{second}", &first[..50]);
    assert_eq!(half_record(&records, &torn), 50);
    assert_eq!(half_record(&records, second), 0);
    assert_eq!(half_record(&records, &format!("else{second}")), 0);
}
