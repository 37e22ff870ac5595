use std::{fs, path::Path, sync::Arc, time::Instant};

use agentguard_common::identity::AgentId;
use jiff::Timestamp;

use super::{
    search::{Found, Query, search},
    verify::{Verifier, feed_history},
    *,
};
use crate::{
    audit::{AuditRecord, Encoder, EventsLost, Host, Loss, names::Actor},
    policy::compiled::Class,
    sink::Filter,
};

fn encoder() -> Encoder {
    let host = Host {
        version: "0.1.0".into(),
        hostname: "host".into(),
        boot_id: "boot".into(),
    };
    Encoder::new(host, uuid::Uuid::now_v7())
}

fn retention() -> Retention {
    Retention {
        max_bytes: 1 << 30,
        max_days: 30,
        on_full: OnFull::DropOldest,
    }
}

fn record(number: usize) -> AuditRecord {
    AuditRecord::SinkTest {
        time: Timestamp::now(),
        sink: format!("record {number}"),
    }
}

fn history(directory: &Path, retention: Retention, sinks: &[&str]) -> History {
    let sinks = sinks
        .iter()
        .map(|&sink| (sink.to_owned(), Filter::default()));
    History::open(directory, encoder(), retention, sinks).unwrap()
}

/// Waits until `count` records are on disk.
fn wait(history: &History, count: u64) {
    let begun = Instant::now();
    while history.status().last < count {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{:?}",
            history.status()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn lines(directory: &Path, after: u64) -> Vec<(u64, serde_json::Value)> {
    let mut reader = Reader::new(directory);
    let (mut last, mut all) = (after, Vec::new());
    loop {
        let records = reader.after(last).unwrap();
        let Some(newest) = records.last() else {
            return all;
        };
        last = newest.record.sequence;
        all.extend(records.into_iter().map(|stored| {
            let line = serde_json::from_str(&stored.record.line).unwrap();
            (stored.record.sequence, line)
        }));
    }
}

fn messages(directory: &Path, after: u64) -> Vec<(u64, String)> {
    let message = |line: serde_json::Value| line["message"].as_str().unwrap().to_owned();
    lines(directory, after)
        .into_iter()
        .map(|(sequence, line)| (sequence, message(line)))
        .collect()
}

/// How many records a sink will never have, by the last record of that: those before it may be gone.
fn missed(directory: &Path, sink: &str) -> u64 {
    let gap = format!("gone before sink {sink} had them");
    lines(directory, 0)
        .iter()
        .rfind(|(_, line)| line["message"].as_str().unwrap().contains(&gap))
        .map_or(0, |(_, line)| {
            line["unmapped"]["agentguard"]["total"].as_u64().unwrap()
        })
}

fn assert_whole(directory: &Path) -> verify::Report {
    let first = fs::read_to_string(directory.join(key::FIRST_KEY)).unwrap();
    let mut verifier = Verifier::new(crate::audit::chain::from_hex(first.trim()));
    feed_history(directory, &mut verifier).unwrap();
    let report = verifier.finish(key::current_key(directory).unwrap());
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    report
}

#[test]
fn what_comes_is_kept_in_order_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut wanted = Vec::new();
    for start in 0..3 {
        let history = history(directory.path(), retention(), &[]);
        for number in 0..2_000 {
            let number = start * 2_000 + number;
            history.append(record(number));
            wanted.push(format!("test of sink record {number}"));
        }
        history.close();
    }
    let all = messages(directory.path(), 0);
    assert!(
        all.iter()
            .map(|(sequence, _)| *sequence)
            .eq(1..=all.len() as u64)
    );
    let (signed, told): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|(_, message)| message.starts_with("all records"));
    let told: Vec<String> = told.into_iter().map(|(_, message)| message).collect();
    assert_eq!(told, wanted);
    let report = assert_whole(directory.path());
    assert_eq!(report.checkpoints, signed.len() as u64);
    assert!(report.from_known_key);
    assert_eq!(report.unsigned, 0, "the end is signed");
    // From the middle, too.
    assert_eq!(messages(directory.path(), 5_990)[0].0, 5_991);
}

#[test]
fn small_batches_are_put_together() {
    let directory = tempfile::tempdir().unwrap();
    let history = history(directory.path(), retention(), &[]);
    for number in 0..200 {
        history.append(record(number));
        wait(&history, number as u64 + 1);
    }
    history.close();
    assert_whole(directory.path());
    assert_eq!(messages(directory.path(), 0).len(), 201);
    let file = DayFile::all(directory.path()).unwrap().pop().unwrap();
    let batches: u64 = reader::open(&file.path)
        .unwrap()
        .query_row("SELECT count(*) FROM batches", [], |row| row.get(0))
        .unwrap();
    assert!(batches < 80, "{batches} batches of 201 records");
}

#[test]
fn what_is_too_much_goes_and_a_record_says_who_misses_it() {
    let directory = tempfile::tempdir().unwrap();
    let small = Retention {
        max_bytes: 1 << 20,
        ..retention()
    };
    let history = history(directory.path(), small, &["slow", "fast"]);
    let cursors = history.cursors();
    // Retention looks every few seconds, and may have to look again; a slow disk takes its time. What it
    // says may go itself when it looks again.
    const PATIENCE: Duration = Duration::from_secs(180);
    let begun = Instant::now();
    let mut written = 0;
    while history.status().first == 1 {
        assert!(begun.elapsed() < PATIENCE);
        for number in 0..2_000 {
            history.append(record(number));
        }
        written += 2_000;
        wait(&history, written);
        cursors.set("fast", history.status().last);
        std::thread::sleep(Duration::from_millis(100));
    }
    // Something must come for it to be seen that it looked.
    while history.status().bytes > 1 << 20 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", history.status());
        history.append(record(0));
        std::thread::sleep(Duration::from_millis(100));
    }
    history.close();
    let told = messages(directory.path(), 0);
    let first = told[0].0;
    assert!(first > 1);
    assert!(
        cursors.get("slow") + 1 >= first,
        "it goes on at what is there"
    );
    assert_eq!(
        missed(directory.path(), "slow"),
        cursors.get("slow"),
        "each record that is gone is counted once"
    );
    assert_eq!(missed(directory.path(), "fast"), 0);
    assert!(
        told.iter()
            .any(|(_, message)| message.starts_with("100 % of the room"))
    );
    assert_whole(directory.path());

    // It says how many it let go. More is found.
    let file = DayFile::all(directory.path()).unwrap().remove(0);
    rusqlite::Connection::open(&file.path)
        .unwrap()
        .execute("DELETE FROM batches WHERE first = ?1", [first])
        .unwrap();
    let next = messages(directory.path(), 0)[0].0;
    let mut verifier = Verifier::new(None);
    feed_history(directory.path(), &mut verifier).unwrap();
    let gone = verify::Finding::Gone {
        from: first,
        to: next - 1,
    };
    assert_eq!(verifier.finish(None).findings, [gone]);
}

#[test]
fn a_sink_misses_what_it_wanted_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let small = Retention {
        max_bytes: 1 << 20,
        ..retention()
    };
    let filter = Filter {
        identities: vec!["bot".to_owned()],
        ..Filter::default()
    };
    let nobody = Filter {
        identities: vec!["nobody".to_owned()],
        ..Filter::default()
    };
    let sinks = [("picky", filter), ("idle", nobody)].map(|(sink, it)| (sink.to_owned(), it));
    let history = History::open(directory.path(), encoder(), small, sinks).unwrap();
    let bot = Arc::new(Actor {
        name: "bot".into(),
        class: Class::Agent,
        owner: None,
        purpose: None,
        environment: None,
        roles: Vec::new(),
        mode: None,
    });
    for number in 0..20_000 {
        history.append(if number % 10 == 0 {
            AuditRecord::EventsLost(EventsLost {
                time: Timestamp::now(),
                loss: Loss::RingFull(Arc::clone(&bot), AgentId(7)),
                lost: 1,
                total: number,
            })
        } else {
            record(0)
        });
    }
    let begun = Instant::now();
    while history.status().first == 1 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        history.append(record(0));
        std::thread::sleep(Duration::from_millis(100));
    }
    history.close();
    let there = messages(directory.path(), 0)
        .iter()
        .filter(|(_, message)| message.contains("bot"))
        .count() as u64;
    let gone = missed(directory.path(), "picky");
    assert!(gone > 0);
    assert_eq!(there + gone, 2_000);
    assert_eq!(missed(directory.path(), "idle"), 0);
}

#[test]
fn what_nobody_has_stays_where_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let strict = Retention {
        max_bytes: 1 << 20,
        on_full: OnFull::RefuseNewFlows,
        ..retention()
    };
    let history = history(directory.path(), strict, &["slow"]);
    let refuses = history.refuses_flows();
    assert!(history.has_room());
    for round in 0..20_u64 {
        for number in 0..2_000 {
            history.append(record(number));
        }
        wait(&history, (round + 1) * 2_000);
    }
    let until = |wanted: bool| {
        let begun = Instant::now();
        while *refuses.borrow() != wanted {
            assert!(begun.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    until(true);
    assert!(!history.has_room());
    assert_eq!(history.status().first, 1, "nothing went");
    history.cursors().set("slow", 40_000);
    until(false);
    assert!(history.has_room());
    history.close();
    assert_whole(directory.path());
}

#[test]
fn a_damaged_file_is_set_aside_and_no_number_is_used_twice() {
    let directory = tempfile::tempdir().unwrap();
    let first = history(directory.path(), retention(), &[]);
    for number in 0..100 {
        first.append(record(number));
    }
    first.close();
    let file = DayFile::all(directory.path()).unwrap().pop().unwrap();
    fs::write(&file.path, vec![7; 50_000]).unwrap();
    let second = history(directory.path(), retention(), &[]);
    second.append(record(100));
    second.close();
    let told = messages(directory.path(), 0);
    assert!(told[0].1.contains("is damaged"), "{told:?}");
    assert!(told[0].0 > 1_000_000, "{told:?}");
    assert!(file.path.with_extension("db.damaged").exists());
}

#[test]
fn records_are_found_by_what_they_tell() {
    let directory = tempfile::tempdir().unwrap();
    let history = history(directory.path(), retention(), &[]);
    for number in 0..50 {
        history.append(record(number));
    }
    history.close();
    let find = |query: &Query| {
        let mut all: Vec<Found> = Vec::new();
        search(
            directory.path(),
            query,
            |_| true,
            |found| {
                all.push(found);
                Ok::<(), HistoryError>(())
            },
        )
        .unwrap();
        all
    };
    assert_eq!(find(&Query::default()).len(), 51);
    let newest = find(&Query {
        newest: Some(3),
        ..Query::default()
    });
    assert_eq!(
        newest
            .iter()
            .map(|found| found.sequence)
            .collect::<Vec<_>>(),
        [49, 50, 51]
    );
    assert!(newest[0].line.as_ref().unwrap().contains("record 48"));
    let nobody = Query {
        identity: Some("nobody".into()),
        ..Query::default()
    };
    assert!(find(&nobody).is_empty());
    let later = Query {
        since_ms: Some(Timestamp::now().as_millisecond() + 1),
        ..Query::default()
    };
    assert!(find(&later).is_empty());
    assert_eq!(search::first_since(directory.path(), 0).unwrap(), 1);
    let next = search::first_since(directory.path(), i64::MAX).unwrap();
    assert_eq!(next, 52);
}

#[test]
fn questions_in_sql_are_answered_and_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let history = history(directory.path(), retention(), &[]);
    for number in 0..50 {
        history.append(record(number));
    }
    history.close();
    let tables = query::Tables::open(directory.path()).unwrap();
    let ask = |sql: &str| {
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        tables
            .ask(sql, |columns| names = columns, |row| rows.push(row))
            .map(|()| (names, rows))
    };
    let (names, rows) =
        ask("SELECT event, count(*) AS n FROM events GROUP BY 1 ORDER BY 2").unwrap();
    assert_eq!(names, ["event", "n"]);
    let cell = |text: &str, number| {
        vec![
            query::Cell::Text(text.to_owned()),
            query::Cell::Integer(number),
        ]
    };
    assert_eq!(rows, [cell("checkpoint", 1), cell("test", 50)]);
    for view in ["flows", "denials", "identities", "grants", "rollups"] {
        ask(&format!("SELECT * FROM {view}")).unwrap();
    }
    for wrong in [
        "DELETE FROM day1.events",
        "DROP TABLE day1.batches",
        "CREATE TABLE x (y)",
        "ATTACH '/tmp/x' AS y",
        "SELECT 1; SELECT 2",
        "SELEC",
        "",
    ] {
        assert!(ask(wrong).is_err(), "{wrong}");
    }
    assert_eq!(messages(directory.path(), 0).len(), 51);
}
