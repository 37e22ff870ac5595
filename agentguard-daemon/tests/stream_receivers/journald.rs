//! The journal, of a journald with a `/run` and a `/var/log` of its own. Nothing is confirmed, and here
//! no systemd keeps the socket while journald is away: what is in its queue goes with it.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
};

use agentguard_daemon::sink::{
    Progress, Record,
    journald::{Journald, JournaldSettings},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    drive::{Fault, RECORDS, Transport, arrival, drive_through, records},
    program::{Program, root},
};

const SETTINGS: &str = "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nReadKMsg=no\nAudit=no\n\
    ForwardToWall=no\nForwardToSyslog=no\n";

/// Binds the directories in the mount namespace that it is started in, and becomes journald.
const SCRIPT: &str = "mount --bind \"$1/run\" /run && mount --bind \"$1/log\" /var/log && \
    mount --bind \"$1/etc\" /etc/systemd && exec \"$2\"";

struct Journal {
    program: Program,
    directory: TempDir,
}

impl Journal {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["run", "log", "etc"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("etc/journald.conf"), SETTINGS).unwrap();
        let mut words = [
            "unshare",
            "--mount",
            "--propagation=private",
            "sh",
            "-ec",
            SCRIPT,
            "sh",
        ]
        .map(Into::into)
        .to_vec();
        words.push(directory.path().into());
        words.push(program("lib/systemd/systemd-journald").into());
        let socket = socket(directory.path());
        let listens =
            move || UnixDatagram::unbound().is_ok_and(|client| client.connect(&socket).is_ok());
        Self {
            program: Program::start(words, &at("output"), listens),
            directory,
        }
    }

    fn transport(&self) -> Transport {
        let text = format!("socket = {:?}", socket(self.directory.path()));
        let settings: JournaldSettings = toml::from_str(&text).unwrap();
        Transport::Journald(Journald::new(settings))
    }

    /// All entries of ours.
    fn entries(&self) -> Vec<Value> {
        let output = Command::new(program("bin/journalctl"))
            .args(["--all", "--output=json", "--quiet", "--directory"])
            .arg(self.directory.path().join("run/log/journal"))
            .arg("SYSLOG_IDENTIFIER=agentguard")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The lines of ours, after what is beside them is found right.
    fn lines(&self, records: &[Record]) -> Vec<String> {
        let check = |entry: Value| {
            let number: u64 = entry["AGENTGUARD_SEQUENCE"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            let record = records
                .iter()
                .find(|record| record.sequence == number)
                .unwrap();
            let priority = ["6", "5", "4", "3", "2"][usize::from(record.severity) - 1];
            assert_eq!(entry["PRIORITY"], priority);
            assert_eq!(entry["AGENTGUARD_TIME_MS"], record.time_ms.to_string());
            entry["MESSAGE"].as_str().unwrap().to_owned()
        };
        self.entries().into_iter().map(check).collect()
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("run/systemd/journal/socket")
}

/// A program of systemd: the one that was fetched, or this host's.
fn program(name: &str) -> PathBuf {
    [root().join(name), Path::new("/").join(name)]
        .into_iter()
        .find(|path| path.exists())
        .unwrap()
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn the_journal_gets_all_when_it_was_stalled() {
    let mut journal = Journal::start();
    let records = records(1, RECORDS);
    let mut transport = journal.transport();
    let passage = drive_through(
        &mut transport,
        &records,
        &mut journal.program,
        &[Fault::Stall],
    )
    .await;
    let arrival = arrival(&records, || journal.lines(&records));
    println!("stalled: {arrival:?}, {passage:?}");
    assert_eq!(arrival.missing, Vec::<u64>::new());
    assert_eq!((arrival.duplicates, passage.errors.len()), (0, 0));
    assert_eq!(arrival.torn, 0);
    assert!(passage.dropped_calls > 0);
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn the_journal_lost_what_was_in_flight() {
    let mut journal = Journal::start();
    let records = records(1, RECORDS);
    let mut transport = journal.transport();
    let passage = drive_through(
        &mut transport,
        &records,
        &mut journal.program,
        &[Fault::Kill],
    )
    .await;
    let arrival = arrival(&records, || journal.lines(&records));
    println!("killed: {} missing, {passage:?}", arrival.missing.len());
    assert!(!passage.errors.is_empty(), "it was not noticed");
    arrival.assert_lost_in_flight();
    assert_eq!((arrival.duplicates, arrival.torn), (0, 0));
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn an_entry_that_fits_no_datagram_goes_as_a_file() {
    let journal = Journal::start();
    let mut large = records(1, 1);
    large[0].line = serde_json::json!({ "n": 1, "filler": "ü".repeat(300_000) }).to_string();
    let mut transport = journal.transport();
    let mut progress = Progress::default();
    transport.deliver(&large, &mut progress).await.unwrap();
    assert_eq!(progress.done, 1);
    assert_eq!(
        arrival(&large, || journal.lines(&large)).missing,
        Vec::<u64>::new()
    );
}
