//! The history under faults of the system: an error, or a kill, at each write, sync and rename that it
//! makes. What it said is on disk must be there afterwards, in order and signed, and it must go on.
//!
//! The faults are real: `strace` has the kernel fail the call, or kills the process at it. A power cut
//! is not among them: that what was synced is on disk is SQLite's and the file system's word.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env, fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agentguard_daemon::{
    audit::{AuditRecord, Encoder, Host, chain::from_hex},
    history::{
        History, OnFull, Reader, Retention,
        key::{FIRST_KEY, current_key},
        verify::{Verifier, feed_history},
    },
    sink::Filter,
};
use jiff::Timestamp;

const DIRECTORY: &str = "AGENTGUARD_FAULTS_DIRECTORY";
const BATCHES: usize = 6;
const RECORDS: usize = 5;
/// The calls that change what is on disk.
const CALLS: [&str; 6] = [
    "pwrite64",
    "write",
    "fdatasync",
    "fsync",
    "ftruncate",
    "rename",
];

fn open(directory: &Path) -> Result<History, String> {
    let host = Host {
        version: "0.1.0".into(),
        hostname: "host".into(),
        boot_id: "boot".into(),
    };
    let retention = Retention {
        max_bytes: 1 << 30,
        max_days: 30,
        on_full: OnFull::DropOldest,
    };
    let encoder = Encoder::new(host, uuid::Uuid::now_v7());
    let sinks = [("sink".to_owned(), Filter::default())];
    History::open(directory, encoder, retention, sinks).map_err(|error| error.to_string())
}

/// Writes some batches and says after each how far it is on disk.
fn work(directory: &Path) {
    let Ok(history) = open(directory) else {
        return;
    };
    let committed = history.committed();
    let mut told = fs::OpenOptions::new()
        .append(true)
        .open(directory.with_extension("told"))
        .unwrap();
    for batch in 1..=BATCHES {
        for _ in 0..RECORDS {
            history.append(AuditRecord::SinkTest {
                time: Timestamp::now(),
                sink: format!("batch {batch}"),
            });
        }
        let begun = Instant::now();
        let before = *committed.borrow();
        while *committed.borrow() < before + RECORDS as u64 {
            if begun.elapsed() > Duration::from_secs(2) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // In one call: where that is the one that fails, nothing is told.
        drop(told.write_all(format!("{}\n", *committed.borrow()).as_bytes()));
        history.cursors().set("sink", *committed.borrow());
        drop(history.cursors().save());
    }
    history.close();
}

/// What it said is on disk.
fn told(directory: &Path) -> u64 {
    let text = fs::read_to_string(directory.with_extension("told")).unwrap();
    text.lines()
        .filter_map(|line| line.parse().ok())
        .max()
        .unwrap_or(0)
}

fn assert_whole(directory: &Path, what: &str) -> u64 {
    let first = fs::read_to_string(directory.join(FIRST_KEY)).unwrap();
    let mut verifier = Verifier::new(from_hex(first.trim()));
    feed_history(directory, &mut verifier).unwrap();
    let report = verifier.finish(current_key(directory).unwrap());
    assert!(report.findings.is_empty(), "{what}: {:?}", report.findings);
    assert!(
        report.records == 0 || report.first == Some(1),
        "{what}: {report:?}"
    );
    report.last.unwrap_or(0)
}

/// Runs the worker with one fault. Whether that came: there may be fewer such calls.
fn run(directory: &Path, fault: &str) -> bool {
    let told = directory.with_extension("told");
    fs::write(&told, "").unwrap();
    let trace = directory.with_extension("trace");
    let call = fault.split(':').next().unwrap();
    let status = Command::new("strace")
        .args(["-f", "-qq", "-e", "signal=none", "-o"])
        .arg(&trace)
        .args(["-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={fault}")])
        .arg(env::current_exe().unwrap())
        .args([
            "--exact",
            "faults_at_each_write_lose_nothing_that_was_told",
            "--ignored",
        ])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let trace = fs::read_to_string(&trace).unwrap();
    trace.contains("(INJECTED)") || !status.success()
}

#[test]
#[ignore = "needs strace: cargo xtask test"]
fn faults_at_each_write_lose_nothing_that_was_told() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        return work(Path::new(&directory));
    }
    let mut faults = 0;
    for call in CALLS {
        // A kill at each place, errors at some.
        for (kind, step) in [
            ("signal=KILL", 1),
            ("error=EIO", 2),
            ("error=ENOSPC", 3),
            ("error=EROFS", 5),
        ] {
            for number in (1..).step_by(step) {
                let fault = format!("{call}:{kind}:when={number}");
                let root = tempfile::tempdir_in("/dev/shm").unwrap();
                let directory = root.path().join("history");
                let came = run(&directory, &fault);
                let on_disk = told(&directory);
                // It goes on, whatever was left.
                let history = open(&directory).unwrap_or_else(|error| panic!("{fault}: {error}"));
                let last = *history.committed().borrow();
                assert!(last >= on_disk, "{fault}: {on_disk} told, {last} there");
                history.append(AuditRecord::DaemonStarted {
                    time: Timestamp::now(),
                });
                history.close();
                let after = assert_whole(&directory, &fault);
                assert!(after > last, "{fault}: it does not go on");
                let records = Reader::new(&directory).after(last).unwrap();
                assert!(!records.is_empty(), "{fault}");
                if !came {
                    let all = (BATCHES * RECORDS) as u64;
                    assert_eq!(on_disk, all, "{fault}: nothing disturbed it");
                    break;
                }
                faults += 1;
            }
        }
    }
    println!("{faults} faults");
    assert!(faults > 100, "only {faults} faults came");
}
