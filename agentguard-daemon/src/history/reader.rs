//! Reading the history, from any process that may, while it is written.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{DayFile, HistoryError};
use crate::sink::Record;

/// A record as it was stored, with what sinks choose by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What sinks get.
    pub record: Record,
    /// `class_uid` of OCSF.
    pub class: u32,
    /// Name of the identity.
    pub identity: Option<String>,
    /// `allow`, `deny`, `would-deny`.
    pub verdict: Option<String>,
}

/// Reads records in their order.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    open: Option<(DayFile, Connection)>,
}

/// Opens a file of the history to read it.
///
/// # Errors
///
/// If it cannot be opened.
pub fn open(path: &Path) -> Result<Connection, HistoryError> {
    let connect = |is_still: bool| -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri(path, is_still), flags)?;
        connection.busy_timeout(super::BUSY)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    Ok(connect(false).or_else(|_| connect(true))?)
}

/// How SQLite is to open the file at `path` to read it.
///
/// Beside a file that is written there is a log, in which readers find their place. Where there is none,
/// nobody writes, and a reader that may not make one has to be told that all `is_still`.
pub(super) fn uri(path: &Path, is_still: bool) -> String {
    let mode = if is_still {
        "mode=ro&immutable=1"
    } else {
        "mode=ro"
    };
    let mut escaped = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(byte) {
            escaped.push(char::from(*byte));
        } else {
            use std::fmt::Write as _;
            // Writing to a `String` cannot fail.
            write!(escaped, "%{byte:02x}").ok();
        }
    }
    format!("file:{escaped}?{mode}")
}

impl Reader {
    /// Of the history in `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            open: None,
        }
    }

    /// Some records after number `sequence`, in their order: those of a batch. None if there is none yet.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn after(&mut self, sequence: u64) -> Result<Vec<Stored>, HistoryError> {
        let mut wanted = sequence;
        loop {
            let Some((file, connection)) = self.file_of(wanted + 1)? else {
                return Ok(Vec::new());
            };
            let found = read_batch(connection, wanted)?;
            if !found.is_empty() {
                return Ok(found);
            }
            // A later file goes on, or nobody does yet.
            let first = file.first;
            let next = DayFile::all(&self.directory)?
                .into_iter()
                .find(|file| file.first > first.max(wanted));
            match next {
                Some(next) => wanted = next.first - 1,
                None => return Ok(Vec::new()),
            }
        }
    }

    /// The file that has record `sequence`, or would; the oldest if it is gone.
    fn file_of(&mut self, sequence: u64) -> Result<Option<&(DayFile, Connection)>, HistoryError> {
        let files = DayFile::all(&self.directory)?;
        let at = files.partition_point(|file| file.first <= sequence);
        let Some(file) = files.get(at.saturating_sub(1)) else {
            return Ok(None);
        };
        if self.open.as_ref().is_none_or(|(open, _)| open != file) {
            self.open = Some((file.clone(), open(&file.path)?));
        }
        Ok(self.open.as_ref())
    }
}

fn read_batch(connection: &Connection, after: u64) -> Result<Vec<Stored>, HistoryError> {
    // Both tables of one moment: a batch may be put together with others in between.
    let snapshot = connection.unchecked_transaction()?;
    let mut select = snapshot.prepare_cached(
        "SELECT first, last, lines FROM batches WHERE first >=
         coalesce((SELECT first FROM batches WHERE first <= ?1 ORDER BY first DESC LIMIT 1), 0)
         AND last >= ?1 ORDER BY first LIMIT 1",
    )?;
    let mut rows = select.query([after + 1])?;
    let Some(row) = rows.next()? else {
        return Ok(Vec::new());
    };
    let (first, last): (u64, u64) = (row.get(0)?, row.get(1)?);
    let lines = super::unpack(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?;
    let mut columns = snapshot.prepare_cached(
        "SELECT sequence, time_ms, severity, class, identity, verdict FROM events
         WHERE sequence BETWEEN ?1 AND ?2 ORDER BY sequence",
    )?;
    let mut columns = columns.query([first, last])?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&lines).lines() {
        let Some(row) = columns.next()? else {
            return Err(rusqlite::Error::QueryReturnedNoRows.into());
        };
        let sequence: u64 = row.get(0)?;
        if sequence <= after {
            continue;
        }
        found.push(Stored {
            record: Record {
                sequence,
                time_ms: row.get(1)?,
                severity: row.get(2)?,
                line: line.to_owned(),
            },
            class: row.get(3)?,
            identity: row.get(4)?,
            verdict: row.get(5)?,
        });
    }
    Ok(found)
}
