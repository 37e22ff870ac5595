//! How many records a second the history takes, on disk, and what that costs; and how fast a question to a
//! million of them is answered. `cargo xtask bench` runs it.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "it reports")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use agentguard_common::{
    audit::{AuditEvent, EventKind, Hook},
    cgroup::Rank,
    connection::{Address, Direction, Protocol},
    identity::AgentId,
    policy::NO_RULE,
    verdict::{Reason, Verdict},
};
use agentguard_daemon::{
    audit::{
        AuditRecord, BootClock, Encoder, Host, Process, Program, Trail, Untrusted,
        record::ConnectionRecord,
    },
    history::{
        History, HistoryError, OnFull, Retention,
        query::Tables,
        search::{Query, search},
    },
};
use jiff::Timestamp;

const RECORDS: u64 = 1_000_000;

/// The least that is aimed at, in records a second.
const AIM: f64 = 50_000.0;

fn main() {
    // Beside what is built: on a disk, and not in memory.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let directory = tempfile::tempdir_in(target).unwrap();
    let host = Host {
        version: "0.1.0".into(),
        hostname: "bench".into(),
        boot_id: "2f1c5b0a-5a65-4b8e-9d3c-0f6f6d6f2a11".into(),
    };
    let retention = Retention {
        max_bytes: 1 << 40,
        max_days: 30,
        on_full: OnFull::DropOldest,
    };
    let history = History::open(
        directory.path(),
        Encoder::new(host, uuid::Uuid::now_v7()),
        retention,
        [],
    )
    .unwrap();
    let committed = history.committed();
    let before = cpu();
    let begun = Instant::now();
    for number in 0..RECORDS {
        while !history.has_room() {
            std::thread::sleep(Duration::from_millis(1));
        }
        history.append(record(number));
    }
    while *committed.borrow() < RECORDS {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (took, cpu) = (begun.elapsed(), cpu() - before);
    let rate = RECORDS as f64 / took.as_secs_f64();
    let bytes = history.status().bytes;
    println!("\nThe history, {RECORDS} records of flows, synced");
    println!(
        "  {:<36} {rate:>10.0} a second   aim: {AIM}, {}",
        "records, from made to on disk",
        if rate >= AIM { "met" } else { "missed" }
    );
    println!(
        "  {:<36} {:>10.1} s of {:.1} s",
        "CPU time, those who make them too",
        cpu.as_secs_f64(),
        took.as_secs_f64()
    );
    println!(
        "  {:<36} {:>10.0} bytes each",
        "on disk",
        bytes as f64 / RECORDS as f64
    );
    println!(
        "  {:<36} {:>10} KiB",
        "resident, with what waits",
        resident()
    );
    history.close();
    ask(directory.path());
}

/// One flow of many identities to many places.
fn record(number: u64) -> AuditRecord {
    let low = u32::try_from(number % 60_000).unwrap();
    let event = AuditEvent {
        time_ns: number * 1_000,
        generation: 3,
        cgroup_id: 4_711,
        socket_cookie: number,
        bytes_out: 0,
        bytes_in: 0,
        packets_out: 0,
        packets_in: 0,
        duration_ns: 0,
        exec_id: number,
        facts: 0,
        cpu_sequence: number,
        identity: AgentId(16 + low % 50),
        rule: NO_RULE,
        pid: low,
        uid: 1_000,
        local: Address([0; 16]),
        remote: Address::from_v4((0x0a00_0000 + low).to_be_bytes()),
        comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        local_port: 0,
        remote_port: 443,
        kind: EventKind::Connection,
        verdict: if low % 3 == 0 {
            Verdict::Deny
        } else {
            Verdict::Allow
        },
        reason: Reason::NoRule,
        direction: Direction::Egress,
        protocol: Protocol::Tcp,
        hook: Hook::Connect,
        rank: Rank::Unit,
        facts_known: 0,
        cpu: 1,
        reserved: [0; 2],
    };
    let program = Program {
        exe: Some(Untrusted::new(b"/usr/bin/curl")),
        login_uid: Some(1_000),
        ..Program::default()
    };
    let process = Process {
        program: Some(program.into()),
        ..Process::default()
    };
    let actor = Trail::default().actor(3, event.identity);
    let clock = BootClock::new(Timestamp::now());
    let record = ConnectionRecord::new(event, actor, None, process, clock);
    AuditRecord::Connection(Box::new(record))
}

fn ask(directory: &Path) {
    let tables = Tables::open(directory).unwrap();
    let time = |what: &str, doing: &dyn Fn() -> usize| {
        let mut times: Vec<Duration> = (0..5)
            .map(|_| {
                let begun = Instant::now();
                assert!(doing() > 0, "{what} found nothing");
                begun.elapsed()
            })
            .collect();
        times.sort();
        println!("  {what:<36} {:>10} ms", times[2].as_millis());
    };
    println!("\nQuestions to {RECORDS} records, medians of five");
    let sql = |sql: &str| {
        let mut rows = 0;
        tables.ask(sql, |_| {}, |_| rows += 1).unwrap();
        rows
    };
    time("ten top destinations", &|| {
        sql("SELECT address, sum(count) AS n FROM flows GROUP BY 1 ORDER BY n DESC LIMIT 10")
    });
    time("all identities, from rollups", &|| {
        sql("SELECT * FROM identities")
    });
    time("denials of one identity, counted", &|| {
        sql("SELECT count(*) FROM denials WHERE identity = (SELECT identity FROM events LIMIT 1)")
    });
    let find = |query: &Query, with_lines: bool| {
        let mut found = 0;
        search(
            directory,
            query,
            |_| with_lines,
            |_| {
                found += 1;
                Ok::<(), HistoryError>(())
            },
        )
        .unwrap();
        found
    };
    time("the last 1,000 as JSON", &|| {
        let newest = Query {
            newest: Some(1_000),
            ..Query::default()
        };
        find(&newest, true)
    });
    time("all to one address", &|| {
        let one = Query {
            network: Some("10.0.0.7/32".parse().unwrap()),
            ..Query::default()
        };
        find(&one, true)
    });
}

fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse().unwrap()
}
