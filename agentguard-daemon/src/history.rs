//! History: every record on disk before any sink gets it, in order, chained and signed.
//!
//! [`History`] takes records in and writes them on a thread of its own: at most [`GATHER`] after a
//! record came it goes to disk, with all that came meanwhile, in one transaction that is synced when it
//! is done. What cannot be written waits, and [`History::has_room`] says when too much waits: then the
//! daemon leaves events in the kernel's ring, which counts exactly what it has no room for.
//!
//! One file of SQLite a UTC day, in the order of their names; `batches` holds the lines as sinks get
//! them, `events` what they can be asked by. [`Reader`] reads it from anywhere, also while it is
//! written. [`Cursors`] says how far each sink has come.
#![forbid(unsafe_code)]

mod accounts;
pub mod cursors;
mod day;
mod handle;
pub mod key;
pub mod query;
pub mod reader;
mod retention;
pub mod row;
pub mod search;
mod store;

pub mod verify;
mod writer;

use std::{io, path::PathBuf, time::Duration};

pub use self::{
    accounts::Told,
    cursors::Cursors,
    day::DayFile,
    handle::{History, HistoryStatus},
    reader::{Reader, Stored},
    retention::{OnFull, Retention},
};

/// How long a record waits for others at most before all go to disk together.
pub const GATHER: Duration = Duration::from_millis(20);

/// How long a reader and the writer wait for each other at most.
const BUSY: Duration = Duration::from_secs(5);

/// Longest batch when it is unpacked.
const MAX_UNPACKED: usize = 64 << 20;

/// Why the history cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// SQLite.
    #[error("history: {0}")]
    Database(#[from] rusqlite::Error),
    /// A file or directory.
    #[error("history: {0}")]
    Io(#[from] io::Error),
    /// What is in a file makes no sense.
    #[error("history: {} is damaged", .0.display())]
    Damaged(PathBuf),
    /// A later agentguard wrote it.
    #[error("history: {} has format {format}, which this version does not know", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// The key that signs.
    #[error("audit key {}: {why}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl HistoryError {
    /// Whether it says that there is no room.
    fn is_full(&self) -> bool {
        match self {
            Self::Database(error) => {
                error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Io(error) => error.kind() == io::ErrorKind::StorageFull,
            Self::Damaged(_) | Self::Format { .. } | Self::Key { .. } => false,
        }
    }

    /// Whether it says that a file is not what it should be.
    fn is_damage(&self) -> bool {
        match self {
            Self::Database(error) => {
                matches!(
                    error.sqlite_error_code(),
                    Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
                ) || matches!(error, rusqlite::Error::QueryReturnedNoRows)
                    || matches!(
                        error,
                        rusqlite::Error::SqliteFailure(failure, Some(message))
                            if failure.code == rusqlite::ErrorCode::Unknown
                                && message.starts_with("no such table")
                    )
            }
            Self::Damaged(_) => true,
            Self::Io(_) | Self::Format { .. } | Self::Key { .. } => false,
        }
    }
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let bound = zstd::zstd_safe::get_frame_content_size(packed)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(MAX_UNPACKED);
    zstd::bulk::decompress(packed, bound.min(MAX_UNPACKED))
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
