//! How far each sink has come: the number of the last record that it need not get again.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, params};

use super::HistoryError;
use crate::sink::Filter;

/// The cursors of all sinks in the settings.
///
/// They are kept in a file of their own. One that is a little old makes a sink get records again, which
/// receivers know by their `metadata.uid`; so it is not synced each time.
#[derive(Debug)]
pub struct Cursors(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    live: BTreeMap<String, Cursor>,
    unsaved: bool,
}

#[derive(Debug)]
struct Cursor {
    sequence: u64,
    filter: Filter,
}

/// A sink that does not have all records yet.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) sink: String,
    pub(super) cursor: u64,
    /// Of the records after that it wants these.
    pub(super) filter: Filter,
}

impl Cursors {
    /// Opens those in `directory`, for `sinks` and what each wants. A sink that is new begins after record
    /// `newest`.
    ///
    /// # Errors
    ///
    /// If they cannot be read or made.
    pub fn open(
        directory: &Path,
        sinks: impl IntoIterator<Item = (String, Filter)>,
        newest: u64,
    ) -> Result<Self, HistoryError> {
        let connection = Connection::open(directory.join("cursors.db"))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.busy_timeout(super::BUSY)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS cursors
             (sink TEXT PRIMARY KEY, sequence INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        )?;
        let known: BTreeMap<String, u64> = connection
            .prepare("SELECT sink, sequence FROM cursors")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let live = sinks
            .into_iter()
            .map(|(sink, filter)| {
                // Beyond the newest: the history was cut off, which `audit verify` tells.
                let sequence = known.get(&sink).map_or(newest, |&known| known.min(newest));
                (sink, Cursor { sequence, filter })
            })
            .collect();
        let cursors = Self(Mutex::new(Inner {
            connection,
            live,
            unsaved: true,
        }));
        cursors.save()?;
        Ok(cursors)
    }

    /// The last record that `sink` need not get again.
    #[must_use]
    pub fn get(&self, sink: &str) -> u64 {
        self.lock()
            .live
            .get(sink)
            .map_or(0, |cursor| cursor.sequence)
    }

    /// The sinks that have not come to record `last` yet.
    pub(super) fn behind(&self, last: u64) -> Vec<Behind> {
        let inner = self.lock();
        inner
            .live
            .iter()
            .filter(|(_, cursor)| cursor.sequence < last)
            .map(|(sink, cursor)| Behind {
                sink: sink.clone(),
                cursor: cursor.sequence,
                filter: cursor.filter.clone(),
            })
            .collect()
    }

    /// The sink that is furthest behind.
    #[must_use]
    pub fn least(&self) -> Option<u64> {
        self.lock()
            .live
            .values()
            .map(|cursor| cursor.sequence)
            .min()
    }

    /// Moves the cursor of `sink`; it is on disk at the next [`Cursors::save`].
    pub fn set(&self, sink: &str, sequence: u64) {
        let mut inner = self.lock();
        if let Some(cursor) = inner.live.get_mut(sink) {
            cursor.sequence = sequence;
            inner.unsaved = true;
        }
    }

    /// Moves the cursor of `sink` on from `from`, unless somebody else has moved it meanwhile.
    pub fn advance(&self, sink: &str, from: u64, to: u64) {
        let mut inner = self.lock();
        if let Some(cursor) = inner.live.get_mut(sink)
            && cursor.sequence == from
        {
            cursor.sequence = to;
            inner.unsaved = true;
        }
    }

    /// Writes what was moved.
    ///
    /// # Errors
    ///
    /// If it cannot be written; it is tried again at the next call.
    pub fn save(&self) -> Result<(), HistoryError> {
        let mut inner = self.lock();
        let Inner {
            connection,
            live,
            unsaved,
        } = &mut *inner;
        if !*unsaved {
            return Ok(());
        }
        let transaction = connection.transaction()?;
        for (sink, cursor) in live {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO cursors VALUES (?1, ?2)")?
                .execute(params![sink, cursor.sequence])?;
        }
        transaction.commit()?;
        *unsaved = false;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
