//! Random histories against a model: what was committed is read back from any cursor, in order, whole and
//! chained, whatever crash came between.
//!
//! A crash is what a kill leaves: the files as they are, with the log of the write that was under way cut
//! off at any byte of it, or with any of them altered. The model of the file system is that what was synced
//! is there, and what came after the last sync may be there in part.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, civil::Date};
use proptest::prelude::*;

use super::{
    Cursors, OnFull, Reader, Retention,
    day::{Batch, Entry},
    retention,
    row::Row,
    store::Store,
    verify::{Verifier, feed_history},
};
use crate::{
    audit::{AuditRecord, Encoder, Host, RecordsRemoved},
    sink::Filter,
};

#[derive(Clone, Debug)]
enum Act {
    Append(usize),
    NextDay,
    Reopen,
    /// While so many records are written: how much of that is there, and whether a byte of it is wrong.
    Crash(usize, f64, bool),
    /// The sink takes this share of what it does not have.
    Deliver(f64),
    SaveCursor,
    /// What the sink has goes, if that is more than is to be kept.
    Remove,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1_usize..12).prop_map(Act::Append),
        1 => Just(Act::NextDay),
        1 => Just(Act::Reopen),
        2 => (1_usize..12, 0.0..=1.0, any::<bool>()).prop_map(|(n, part, wrong)| Act::Crash(n, part, wrong)),
        1 => (0.0..1.0).prop_map(Act::Deliver),
        1 => Just(Act::Deliver(1.0)),
        1 => Just(Act::SaveCursor),
        1 => Just(Act::Remove),
    ];
    proptest::collection::vec(act, 1..16)
}

/// A history, and what it must hold.
struct World {
    root: tempfile::TempDir,
    crashes: usize,
    store: Store,
    cursors: Cursors,
    encoder: Encoder,
    today: Date,
    /// All lines that were committed; `gone` of them were removed.
    lines: Vec<String>,
    gone: usize,
    /// Where the sink is, and where a crash may put it back to.
    cursor: u64,
    saved: u64,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let directory = root.path().join("0");
        let host = Host {
            version: "0.1.0".into(),
            hostname: "host".into(),
            boot_id: "boot".into(),
        };
        Self {
            crashes: 0,
            store: Store::open(&directory, "boot").unwrap(),
            cursors: open_cursors(&directory, 0),
            encoder: Encoder::new(host, uuid::Uuid::now_v7()),
            today: "2026-01-01".parse().unwrap(),
            lines: Vec::new(),
            gone: 0,
            cursor: 0,
            saved: 0,
            root,
        }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(self.crashes.to_string())
    }

    fn tests(count: usize) -> impl Iterator<Item = AuditRecord> {
        (0..count).map(|number| AuditRecord::SinkTest {
            time: Timestamp::now(),
            sink: format!("{number}"),
        })
    }

    fn append(&mut self, records: impl IntoIterator<Item = AuditRecord>) {
        let batch = self.batch(records);
        self.store.append(&batch, self.today).unwrap();
        let lines = batch.entries.into_iter().map(|entry| entry.line);
        self.lines.extend(lines);
    }

    fn batch(&self, records: impl IntoIterator<Item = AuditRecord>) -> Batch {
        let mut batch = Batch {
            accounts: HashMap::new(),
            start: self.store.position(),
            end: self.store.position(),
            entries: Vec::new(),
        };
        for record in records {
            let encoded = self.encoder.encode(&record, batch.end);
            batch.end = batch.end.after(&encoded.line);
            batch.entries.push(Entry {
                row: Row::of(&record, &encoded),
                line: encoded.line,
            });
        }
        batch
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Append(count) => self.append(Self::tests(count)),
            Act::NextDay => self.today = self.today.tomorrow().unwrap(),
            Act::Reopen => {
                self.cursors.save().unwrap();
                self.saved = self.cursor;
                self.reopen();
            }
            Act::Crash(count, part, is_wrong) => self.crash(count, part, is_wrong),
            Act::Deliver(share) => {
                let waiting = self.lines.len() as u64 - self.cursor;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a small number"
                )]
                let taken = (waiting as f64 * share) as u64;
                self.cursors
                    .advance("sink", self.cursor, self.cursor + taken);
                self.cursor += taken;
            }
            Act::SaveCursor => {
                self.cursors.save().unwrap();
                self.saved = self.cursor;
            }
            Act::Remove => {
                let strict = Retention {
                    max_bytes: 1,
                    max_days: 30,
                    on_full: OnFull::RefuseNewFlows,
                };
                let due = strict.due(&self.store, &self.cursors, self.today).unwrap();
                let Some(last) = due else { return };
                let gaps = retention::pass(&self.store, &self.cursors, last);
                assert_eq!(gaps, [], "what the sink does not have stays");
                let removed = AuditRecord::RecordsRemoved(RecordsRemoved {
                    time: Timestamp::now(),
                    first: self.store.first(),
                    last,
                });
                self.append([removed]);
                // Before something goes the cursors are on disk.
                self.cursors.save().unwrap();
                self.saved = self.cursor;
                self.store.remove_until(last).unwrap();
                let first = self.store.first();
                assert!(first <= last + 1 && last <= self.cursor);
                self.gone = usize::try_from(first).unwrap() - 1;
            }
        }
    }

    /// The daemon is killed while it writes `count` records.
    fn crash(&mut self, count: usize, part: f64, is_wrong: bool) {
        let before = sizes(&self.directory());
        let batch = self.batch(Self::tests(count));
        self.store.append(&batch, self.today).unwrap();
        let after = sizes(&self.directory());
        let from = self.directory();
        self.crashes += 1;
        fs::create_dir(self.directory()).unwrap();
        for (name, length) in after {
            if name.ends_with("-shm") {
                // It is memory that all who have the file open share, and is made anew.
                continue;
            }
            let mut bytes = fs::read(from.join(&name)).unwrap();
            if name.ends_with("-wal") && !name.starts_with("cursors") {
                let synced = before.get(&name).copied().unwrap_or(0).min(length);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a small number"
                )]
                let kept = synced + ((length - synced) as f64 * part) as usize;
                bytes.truncate(kept);
                if is_wrong && kept > synced {
                    bytes[synced + (kept - synced) / 2] ^= 0x55;
                }
            }
            fs::write(self.directory().join(&name), bytes).unwrap();
        }
        self.cursor = self.saved;
        self.reopen();
        // All of the write that was under way, or nothing.
        let there = usize::try_from(self.store.position().sequence).unwrap() - 1;
        if there != self.lines.len() {
            assert_eq!(there, self.lines.len() + count, "half a write");
            self.lines
                .extend(batch.entries.into_iter().map(|entry| entry.line));
        }
    }

    fn reopen(&mut self) {
        self.store = Store::open(&self.directory(), "boot").unwrap();
        assert_eq!(self.store.damaged, None);
        let newest = self.store.position().sequence - 1;
        self.cursors = open_cursors(&self.directory(), newest);
        // A cursor that was not saved is a little old: never ahead.
        let cursor = self.cursors.get("sink");
        assert!(cursor <= self.cursor.max(self.saved), "{cursor}");
        self.cursor = cursor;
        self.saved = cursor;
    }

    /// What is read is what was committed.
    fn check(&self) {
        let mut reader = Reader::new(&self.directory());
        let start = usize::try_from(self.cursor).unwrap().max(self.gone);
        let (mut last, mut read) = (start as u64, Vec::new());
        loop {
            let records = reader.after(last).unwrap();
            let Some(newest) = records.last() else { break };
            last = newest.record.sequence;
            read.extend(records.into_iter().map(|stored| stored.record.line));
        }
        assert_eq!(read, self.lines[start..], "from {start}");
        let mut verifier = Verifier::new(None);
        feed_history(&self.directory(), &mut verifier).unwrap();
        let report = verifier.finish(None);
        assert_eq!(report.findings, []);
        assert_eq!(report.records, (self.lines.len() - self.gone) as u64);
    }
}

fn open_cursors(directory: &Path, newest: u64) -> Cursors {
    Cursors::open(directory, [("sink".to_owned(), Filter::default())], newest).unwrap()
}

fn sizes(directory: &Path) -> HashMap<String, usize> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let length = usize::try_from(entry.metadata().unwrap().len()).unwrap();
            (entry.file_name().into_string().unwrap(), length)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_was_committed_is_read_back(acts in acts()) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.check();
    }
}
