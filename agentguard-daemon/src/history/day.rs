//! One file of the history: the records of one UTC day.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use agentguard_common::identity::AgentId;
use jiff::civil::Date;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, params};

use super::{
    HistoryError,
    accounts::{self, Told},
    row::Row,
};
use crate::audit::chain::{Position, from_hex, to_hex};

/// Version of [`schema.sql`](https://www.sqlite.org/stricttables.html) that is read and written.
const FORMAT: u32 = 1;

const SCHEMA: &str = include_str!("schema.sql");

/// Compressed faster than a disk takes it.
const COMPRESSION: i32 = 1;

/// Batches below this many records are put together once there are as many of them: a compressor finds
/// little to leave out of a few lines.
const SMALL: u64 = 64;

/// A line at its place, and what it can be found by.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) line: String,
    pub(super) row: Row,
}

/// Records that go to disk together.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// The accounts of this boot that it changes, as they are with it.
    pub(super) accounts: HashMap<AgentId, Told>,
    /// Where the first one goes.
    pub(super) start: Position,
    /// Where the next batch goes.
    pub(super) end: Position,
    pub(super) entries: Vec<Entry>,
}

/// Name and place of a file: its records begin with `first`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DayFile {
    /// Number of its first record.
    pub first: u64,
    /// The day on which it was begun.
    pub date: Date,
    /// Where it is.
    pub path: PathBuf,
}

impl DayFile {
    /// The file of `directory` that begins with `first`.
    pub(super) fn new(directory: &Path, first: u64, date: Date) -> Self {
        Self {
            first,
            date,
            path: directory.join(format!("{first:020}-{date}.db")),
        }
    }

    /// Those of `directory`, oldest first.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn all(directory: &Path) -> Result<Vec<Self>, HistoryError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            files.extend(Self::named(path));
        }
        files.sort();
        Ok(files)
    }

    fn named(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".db")?;
        let (first, date) = name.split_once('-')?;
        Some(Self {
            first: first.parse().ok()?,
            date: date.parse().ok()?,
            path,
        })
    }

    /// Number of the oldest record that is in it; what was before may be removed.
    pub(super) fn oldest(&self, connection: &Connection) -> Result<u64, HistoryError> {
        let first: Option<u64> =
            connection.query_row("SELECT min(first) FROM batches", [], |row| row.get(0))?;
        Ok(first.unwrap_or(self.first))
    }

    /// Removes it, and what SQLite keeps beside it.
    pub(super) fn remove(&self) -> Result<(), HistoryError> {
        remove_with_log(&self.path)
    }
}

fn remove_with_log(path: &Path) -> Result<(), HistoryError> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error.into());
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The file that is written.
#[derive(Debug)]
pub(super) struct Day {
    pub(super) file: DayFile,
    /// Number of the oldest record in it, or of the first to come.
    pub(super) first: u64,
    connection: Connection,
    /// Small batches at the end: how many, and the first record of the first.
    small: Option<(u64, u64)>,
}

impl Day {
    /// Makes the file whose first record goes to `position`.
    pub(super) fn create(
        directory: &Path,
        position: Position,
        date: Date,
        (boot, accounts): (&str, &HashMap<AgentId, Told>),
    ) -> Result<Self, HistoryError> {
        let file = DayFile::new(directory, position.sequence, date);
        // Made under another name: who reads finds a file with all its tables, or none.
        let staged = directory.join("next-day");
        remove_with_log(&staged)?;
        let mut connection = Connection::open(&staged)?;
        connection.pragma_update(None, "synchronous", "full")?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.execute(
            "INSERT INTO meta VALUES (?1, ?2)",
            params![FORMAT, to_hex(&position.previous)],
        )?;
        accounts::write(&transaction, boot, accounts)?;
        transaction.commit()?;
        drop(connection);
        fs::rename(&staged, &file.path)?;
        fs::File::open(directory)?.sync_all()?;
        Self::connect(file)
    }

    /// Opens a file that is there, and says where its next record goes.
    pub(super) fn open(file: DayFile) -> Result<(Self, Position), HistoryError> {
        let mut day = Self::connect(file)?;
        day.first = day.file.oldest(&day.connection)?;
        let day = day;
        let damaged = || HistoryError::Damaged(day.file.path.clone());
        let (format, previous): (u32, String) =
            day.connection
                .query_row("SELECT format, previous FROM meta", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
        if format != FORMAT {
            return Err(HistoryError::Format {
                path: day.file.path.clone(),
                format,
            });
        }
        let last: Option<(u64, String)> = day
            .connection
            .query_row(
                "SELECT last, hash FROM batches ORDER BY first DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let (sequence, hash) =
            last.map_or((day.file.first, previous), |(last, hash)| (last + 1, hash));
        let previous = from_hex(&hash).ok_or_else(damaged)?;
        Ok((day, Position { sequence, previous }))
    }

    fn connect(file: DayFile) -> Result<Self, HistoryError> {
        let connection = Connection::open_with_flags(
            &file.path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_NOFOLLOW,
        )?;
        fs::set_permissions(&file.path, fs::Permissions::from_mode(0o640))?;
        // Each commit is on disk when it returns; readers are not kept waiting.
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.busy_timeout(super::BUSY)?;
        connection.set_prepared_statement_cache_capacity(16);
        Ok(Self {
            first: file.first,
            file,
            connection,
            small: None,
        })
    }

    /// Writes `batch`: all of it, on disk, or nothing.
    pub(super) fn append(&mut self, batch: &Batch, boot: &str) -> Result<(), HistoryError> {
        let (first, last) = (batch.start.sequence, batch.end.sequence - 1);
        let count = last + 1 - first;
        let mut lines = Vec::with_capacity(batch.entries.len() * 2_048);
        let transaction = self.connection.transaction()?;
        let mut start = first;
        let small = match self.small {
            Some((batches, from)) if count < SMALL => Some((batches + 1, from)),
            _ if count < SMALL => Some((1, first)),
            _ => None,
        };
        if let Some((SMALL.., from)) = small {
            start = take_back(&transaction, from, &mut lines)?.unwrap_or(first);
        }
        for entry in &batch.entries {
            lines.extend_from_slice(entry.line.as_bytes());
            lines.push(b'\n');
        }
        transaction
            .prepare_cached("INSERT INTO batches VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                start,
                last,
                to_hex(&batch.end.previous),
                zstd::bulk::compress(&lines, COMPRESSION)?
            ])?;
        index(&transaction, batch)?;
        accounts::write(&transaction, boot, &batch.accounts)?;
        roll_up(&transaction, batch)?;
        transaction.commit()?;
        self.small = small.filter(|(batches, _)| *batches < SMALL);
        Ok(())
    }

    /// The accounts of `boot`.
    pub(super) fn accounts(&self, boot: &str) -> Result<HashMap<AgentId, Told>, HistoryError> {
        accounts::read(&self.connection, boot)
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> Result<u64, HistoryError> {
        let pragma = |name| {
            self.connection
                .pragma_query_value(None, name, |row| row.get(0))
        };
        let (pages, free): (u64, u64) = (pragma("page_count")?, pragma("freelist_count")?);
        let size: u64 = pragma("page_size")?;
        Ok(pages.saturating_sub(free) * size)
    }

    /// The last of the oldest records that make up so many bytes, and of a tenth at least. The newest batch
    /// stays: it says where the next record goes.
    pub(super) fn last_of_oldest(&self, bytes: u64) -> Result<Option<u64>, HistoryError> {
        let percent = bytes.saturating_mul(100) / self.bytes()?.max(1);
        Ok(self.connection.query_row(
            "SELECT max(last) FROM (SELECT last FROM batches ORDER BY first
             LIMIT (SELECT min((count(*) * ?1 + 99) / 100, count(*) - 1) FROM batches))",
            [percent.clamp(10, 100)],
            |row| row.get(0),
        )?)
    }

    /// Removes the records until `last`. Batches stay whole: small ones may have been put together since
    /// it was found.
    pub(super) fn remove_until(&mut self, last: u64) -> Result<(), HistoryError> {
        let transaction = self.connection.transaction()?;
        let last: Option<u64> = transaction.query_row(
            "SELECT max(last) FROM batches WHERE last <= ?1",
            [last],
            |row| row.get(0),
        )?;
        let Some(last) = last else {
            return Ok(());
        };
        transaction.execute("DELETE FROM batches WHERE last <= ?1", [last])?;
        transaction.execute("DELETE FROM events WHERE sequence <= ?1", [last])?;
        transaction.commit()?;
        self.small = None;
        self.first = last + 1;
        Ok(())
    }
}

/// Takes the batches from `from` on out again, and returns where they began.
fn take_back(
    transaction: &Transaction<'_>,
    from: u64,
    lines: &mut Vec<u8>,
) -> Result<Option<u64>, HistoryError> {
    let mut start = None;
    let mut select = transaction
        .prepare_cached("SELECT first, lines FROM batches WHERE first >= ?1 ORDER BY first")?;
    let mut rows = select.query([from])?;
    while let Some(row) = rows.next()? {
        let first: u64 = row.get(0)?;
        start.get_or_insert(first);
        let packed: Vec<u8> = row.get(1)?;
        lines.write_all(&super::unpack(&packed)?)?;
    }
    transaction.execute("DELETE FROM batches WHERE first >= ?1", [from])?;
    Ok(start)
}

fn index(transaction: &Transaction<'_>, batch: &Batch) -> Result<(), HistoryError> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,
         ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
    )?;
    for (sequence, entry) in (batch.start.sequence..).zip(&batch.entries) {
        let row = &entry.row;
        insert.execute(params![
            sequence,
            row.time_ms,
            row.class,
            row.activity,
            row.severity,
            row.event,
            row.identity,
            row.actor,
            row.verdict,
            row.reason,
            row.rule,
            row.direction,
            row.protocol,
            row.address,
            row.port,
            row.program,
            row.pid,
            row.user,
            row.count,
            row.bytes_out,
            row.bytes_in,
            row.duration_ms,
        ])?;
    }
    Ok(())
}

/// Adds what a batch amounts to, by minute.
fn roll_up(transaction: &Transaction<'_>, batch: &Batch) -> Result<(), HistoryError> {
    type Key<'a> = (i64, &'a str, &'static str, &'static str, &'a str);
    let mut sums: HashMap<Key<'_>, [u64; 4]> = HashMap::new();
    for Entry { row, .. } in &batch.entries {
        let key = (
            row.time_ms - row.time_ms.rem_euclid(60_000),
            row.identity.as_deref().unwrap_or(""),
            row.event,
            row.verdict.unwrap_or(""),
            row.rule.as_deref().unwrap_or(""),
        );
        let sum = sums.entry(key).or_default();
        for (sum, value) in sum
            .iter_mut()
            .zip([1, row.count, row.bytes_out, row.bytes_in])
        {
            *sum = sum.saturating_add(value);
        }
    }
    let mut add = transaction.prepare_cached(
        "INSERT INTO rollups VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO UPDATE SET
         records = records + excluded.records, count = count + excluded.count,
         bytes_out = bytes_out + excluded.bytes_out, bytes_in = bytes_in + excluded.bytes_in",
    )?;
    for ((minute, identity, event, verdict, rule), [records, count, bytes_out, bytes_in]) in sums {
        add.execute(params![
            minute, identity, event, verdict, rule, records, count, bytes_out, bytes_in
        ])?;
    }
    Ok(())
}
