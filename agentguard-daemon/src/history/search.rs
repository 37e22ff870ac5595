//! Finding records: by time, identity, verdict and destination, over all files.

use std::{net::IpAddr, path::Path};

use ipnet::IpNet;
use rusqlite::{Connection, Row as Columns, types::Value};

use super::{DayFile, HistoryError, reader};

/// What is looked for; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// After this number.
    pub after: u64,
    /// At this time or later, Unix time in milliseconds.
    pub since_ms: Option<i64>,
    /// Before this time.
    pub until_ms: Option<i64>,
    /// Of this identity.
    pub identity: Option<String>,
    /// With this verdict.
    pub verdict: Option<&'static str>,
    /// With the other end in this network.
    pub network: Option<IpNet>,
    /// At this port.
    pub port: Option<u16>,
    /// Only so many: the newest.
    pub newest: Option<usize>,
}

/// A record that was found: the columns of its row.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its number.
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub time_ms: i64,
    /// What it tells of.
    pub event: String,
    /// Name of the identity.
    pub identity: Option<String>,
    /// Class of the identity.
    pub actor: Option<String>,
    /// The verdict.
    pub verdict: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The way.
    pub direction: Option<String>,
    /// The protocol.
    pub protocol: Option<String>,
    /// The other end.
    pub address: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The program.
    pub program: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Its user.
    pub user: Option<u32>,
    /// Events that it stands for.
    pub count: u64,
    /// IP bytes sent.
    pub bytes_out: u64,
    /// IP bytes received.
    pub bytes_in: u64,
    /// How long the flow was open.
    pub duration_ms: Option<i64>,
    /// The line that sinks get, if that was asked for or is all that tells of it.
    pub line: Option<String>,
}

const COLUMNS: &str = "sequence, time_ms, event, identity, actor, verdict, reason, rule, direction, \
     protocol, address, port, program, pid, user, count, bytes_out, bytes_in, duration_ms";

/// Visits what `query` looks for, oldest first; `wants_line` says whose line is to be read.
///
/// # Errors
///
/// Those of reading, and those of `visit`.
pub fn search<E: From<HistoryError>>(
    directory: &Path,
    query: &Query,
    wants_line: impl Fn(&Found) -> bool,
    mut visit: impl FnMut(Found) -> Result<(), E>,
) -> Result<(), E> {
    let files = DayFile::all(directory)?;
    // Those before the one that has the record after `after` have nothing.
    let start = files.partition_point(|file| file.first <= query.after + 1);
    let files = &files[start.saturating_sub(1)..];
    if let Some(newest) = query.newest {
        let mut found = Vec::new();
        for file in files.iter().rev() {
            if found.len() >= newest {
                break;
            }
            let connection = open(file)?;
            each(&connection, query, true, |record| {
                let more = found.len() < newest;
                if more {
                    found.push(record);
                }
                Ok::<bool, HistoryError>(more)
            })?;
        }
        // Their lines in their order: a batch is unpacked once.
        let mut lines = Lines::new(files);
        for mut record in found.into_iter().rev() {
            if wants_line(&record) {
                record.line = lines.get(record.sequence)?;
            }
            visit(record)?;
        }
        return Ok(());
    }
    let mut lines = Lines::new(files);
    for file in files {
        let connection = open(file)?;
        each(&connection, query, false, |mut record| {
            if wants_line(&record) {
                record.line = lines.get(record.sequence)?;
            }
            visit(record).map(|()| true)
        })?;
    }
    Ok(())
}

/// Number of the first record at `time_ms` or later; of the one to come if there is none.
///
/// # Errors
///
/// If the history cannot be read.
pub fn first_since(directory: &Path, time_ms: i64) -> Result<u64, HistoryError> {
    let mut next = 1;
    for file in DayFile::all(directory)? {
        let connection = open(&file)?;
        let (first, last): (Option<u64>, Option<u64>) = connection
            .query_row(
                "SELECT (SELECT min(sequence) FROM events WHERE time_ms >= ?1), max(sequence) FROM events",
                [time_ms],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .map_err(HistoryError::from)?;
        if let Some(first) = first {
            return Ok(first);
        }
        next = last.map_or(next, |last| last + 1);
    }
    Ok(next)
}

fn open(file: &DayFile) -> Result<Connection, HistoryError> {
    reader::open(&file.path)
}

/// Visits what `query` looks for in one file, until `visit` says that it is enough.
fn each<E: From<HistoryError>>(
    connection: &Connection,
    query: &Query,
    newest_first: bool,
    mut visit: impl FnMut(Found) -> Result<bool, E>,
) -> Result<(), E> {
    let mut sql = format!("SELECT {COLUMNS} FROM events WHERE sequence > ?");
    let mut values = vec![Value::Integer(
        i64::try_from(query.after).unwrap_or(i64::MAX),
    )];
    let mut add = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(value);
        }
    };
    add("time_ms >= ?", query.since_ms.map(Value::Integer));
    add("time_ms < ?", query.until_ms.map(Value::Integer));
    add("identity = ?", query.identity.clone().map(Value::Text));
    add(
        "verdict = ?",
        query.verdict.map(|it| Value::Text(it.to_owned())),
    );
    add("port = ?", query.port.map(|it| Value::Integer(it.into())));
    let single = query
        .network
        .filter(|network| network.prefix_len() == network.max_prefix_len());
    add(
        "address = ?",
        single.map(|it| Value::Text(it.addr().to_string())),
    );
    sql.push_str(if newest_first {
        " ORDER BY sequence DESC"
    } else {
        " ORDER BY sequence"
    });
    let mut select = connection.prepare(&sql).map_err(HistoryError::from)?;
    let mut rows = select
        .query(rusqlite::params_from_iter(values))
        .map_err(HistoryError::from)?;
    while let Some(row) = rows.next().map_err(HistoryError::from)? {
        let found = found(row).map_err(HistoryError::from)?;
        let is_there = query.network.is_none_or(|network| {
            let address = found.address.as_deref().map(str::parse::<IpAddr>);
            matches!(address, Some(Ok(address)) if network.contains(&address))
        });
        if is_there && !visit(found)? {
            break;
        }
    }
    Ok(())
}

fn found(row: &Columns<'_>) -> rusqlite::Result<Found> {
    Ok(Found {
        sequence: row.get(0)?,
        time_ms: row.get(1)?,
        event: row.get(2)?,
        identity: row.get(3)?,
        actor: row.get(4)?,
        verdict: row.get(5)?,
        reason: row.get(6)?,
        rule: row.get(7)?,
        direction: row.get(8)?,
        protocol: row.get(9)?,
        address: row.get(10)?,
        port: row.get(11)?,
        program: row.get(12)?,
        pid: row.get(13)?,
        user: row.get(14)?,
        count: row.get(15)?,
        bytes_out: row.get(16)?,
        bytes_in: row.get(17)?,
        duration_ms: row.get(18)?,
        line: None,
    })
}

/// Lines by number, of which the last batch is kept.
struct Lines<'a> {
    files: &'a [DayFile],
    open: Option<(u64, Connection)>,
    batch: (u64, Vec<String>),
}

impl<'a> Lines<'a> {
    const fn new(files: &'a [DayFile]) -> Self {
        Self {
            files,
            open: None,
            batch: (0, Vec::new()),
        }
    }

    fn get(&mut self, sequence: u64) -> Result<Option<String>, HistoryError> {
        if let Some(line) = self.kept(sequence) {
            return Ok(Some(line));
        }
        let at = self.files.partition_point(|file| file.first <= sequence);
        let Some(file) = self.files.get(at.saturating_sub(1)) else {
            return Ok(None);
        };
        if self
            .open
            .as_ref()
            .is_none_or(|(first, _)| *first != file.first)
        {
            self.open = Some((file.first, open(file)?));
        }
        if let Some((_, connection)) = &self.open {
            let mut select = connection.prepare_cached(
                "SELECT first, lines FROM batches WHERE first <= ?1 AND last >= ?1
                 ORDER BY first DESC LIMIT 1",
            )?;
            let mut rows = select.query([sequence])?;
            if let Some(row) = rows.next()? {
                let packed: Vec<u8> = row.get(1)?;
                let lines = super::unpack(&packed)?;
                let lines = String::from_utf8_lossy(&lines);
                self.batch = (row.get(0)?, lines.lines().map(str::to_owned).collect());
            }
        }
        Ok(self.kept(sequence))
    }

    fn kept(&self, sequence: u64) -> Option<String> {
        let index = sequence.checked_sub(self.batch.0)?;
        self.batch.1.get(usize::try_from(index).ok()?).cloned()
    }
}
