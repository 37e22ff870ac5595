//! All files of the history, as its one writer sees them.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use agentguard_common::identity::AgentId;
use jiff::civil::Date;

use super::{
    HistoryError,
    accounts::Told,
    day::{Batch, Day, DayFile},
};
use crate::{
    audit::chain::{NOTHING, Position},
    sink::Filter,
};

/// How far numbers jump where the last file is damaged: more records than it can have had, so that no
/// number is given twice.
const JUMP: u64 = 1_000_000_000;

/// A file that is not written any more.
#[derive(Debug)]
struct Closed {
    file: DayFile,
    /// Number of the oldest record in it: some may have been removed while it was written.
    first: u64,
    bytes: u64,
}

/// A file that is not written any more, and what is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) file: &'a DayFile,
    /// Number of the last record in it.
    pub(super) last: u64,
    pub(super) bytes: u64,
}

/// The files, and where the next record goes.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    /// Those before the one that is written, oldest first.
    closed: Vec<Closed>,
    day: Option<Day>,
    position: Position,
    boot: String,
    /// What the records of this boot stand for.
    accounts: HashMap<AgentId, Told>,
    /// What could not be read, if that is so.
    pub(super) damaged: Option<PathBuf>,
}

impl Store {
    /// Opens the history in `directory`, which is made where there is none.
    pub(super) fn open(directory: &Path, boot: &str) -> Result<Self, HistoryError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)?;
        let mut files = DayFile::all(directory)?;
        let mut store = Self {
            directory: directory.to_owned(),
            closed: Vec::new(),
            day: None,
            position: Position::FIRST,
            boot: boot.to_owned(),
            accounts: HashMap::new(),
            damaged: None,
        };
        if let Some(last) = files.pop() {
            match Day::open(last.clone()) {
                Ok((day, position)) => {
                    store.accounts = day.accounts(boot)?;
                    store.day = Some(day);
                    store.position = position;
                }
                Err(error) if error.is_damage() => store.set_aside(&last)?,
                Err(error) => return Err(error),
            }
        }
        for file in files {
            let bytes = fs::metadata(&file.path)?.len();
            // Only from the oldest something was removed. One that is damaged is for `audit verify` to tell.
            let first = if store.closed.is_empty() {
                super::reader::open(&file.path)
                    .and_then(|connection| file.oldest(&connection))
                    .unwrap_or(file.first)
            } else {
                file.first
            };
            store.closed.push(Closed { file, first, bytes });
        }
        Ok(store)
    }

    /// Moves a damaged file out of the way, whole, for whoever wants to look at it.
    fn set_aside(&mut self, file: &DayFile) -> Result<(), HistoryError> {
        let aside = file.path.with_extension("db.damaged");
        fs::rename(&file.path, &aside)?;
        self.position = Position {
            sequence: file.first + JUMP,
            previous: NOTHING,
        };
        self.damaged = Some(aside);
        Ok(())
    }

    /// Where the next record goes.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// What the records of this boot stand for, by identity.
    pub(super) const fn accounts(&self) -> &HashMap<AgentId, Told> {
        &self.accounts
    }

    /// Number of the first record that is here; that of the next if there is none.
    pub(super) fn first(&self) -> u64 {
        self.closed
            .first()
            .map(|closed| closed.first)
            .or_else(|| self.day.as_ref().map(|day| day.first))
            .unwrap_or(self.position.sequence)
    }

    /// Writes `batch`, which begins at [`Store::position`], to the file of `today`.
    pub(super) fn append(&mut self, batch: &Batch, today: Date) -> Result<(), HistoryError> {
        if self.day.as_ref().is_none_or(|day| day.file.date != today) {
            self.begin_day(today)?;
        }
        if let Some(day) = &mut self.day {
            day.append(batch, &self.boot)?;
            self.position = batch.end;
            self.accounts.extend(&batch.accounts);
        }
        Ok(())
    }

    fn begin_day(&mut self, today: Date) -> Result<(), HistoryError> {
        let accounts = (self.boot.as_str(), &self.accounts);
        let next = Day::create(&self.directory, self.position, today, accounts)?;
        if let Some(last) = self.day.replace(next) {
            let (file, first) = (last.file.clone(), last.first);
            // Closing it moves what waits beside it into it.
            drop(last);
            if file.first == self.position.sequence {
                // It never had a record. One of the same day was begun again.
                let is_same = self.day.as_ref().is_some_and(|day| day.file == file);
                if !is_same {
                    file.remove()?;
                }
            } else {
                let bytes = fs::metadata(&file.path)?.len();
                self.closed.push(Closed { file, first, bytes });
            }
        }
        Ok(())
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> Result<u64, HistoryError> {
        let closed: u64 = self.closed.iter().map(|closed| closed.bytes).sum();
        let open = self.day.as_ref().map_or(Ok(0), Day::bytes)?;
        Ok(closed + open)
    }

    /// The files that are not written any more, oldest first.
    pub(super) fn closed(&self) -> impl Iterator<Item = Part<'_>> {
        let open = self.day.as_ref().map(|day| day.file.first);
        let next = open.unwrap_or(self.position.sequence);
        let nexts = self.closed.iter().skip(1).map(|closed| closed.file.first);
        self.closed
            .iter()
            .zip(nexts.chain([next]))
            .map(|(closed, next)| Part {
                file: &closed.file,
                last: next - 1,
                bytes: closed.bytes,
            })
    }

    /// The last of the oldest records of the file that is written which make up so many bytes, and of a
    /// tenth of it at least.
    pub(super) fn last_of_oldest(&self, bytes: u64) -> Result<Option<u64>, HistoryError> {
        self.day
            .as_ref()
            .map_or(Ok(None), |day| day.last_of_oldest(bytes))
    }

    /// How many records after number `after` and until `last` a sink with this filter gets.
    pub(super) fn count(
        &self,
        after: u64,
        last: u64,
        filter: &Filter,
    ) -> Result<u64, HistoryError> {
        let closed = self.closed.iter().map(|closed| &closed.file);
        let mut sum = 0;
        for file in closed.chain(self.day.as_ref().map(|day| &day.file)) {
            if file.first <= last {
                sum += count_in(file, after, last, filter)?;
            }
        }
        Ok(sum)
    }

    /// Removes the records until `last`, as far as that is whole files and batches.
    pub(super) fn remove_until(&mut self, last: u64) -> Result<(), HistoryError> {
        while self.closed().next().is_some_and(|part| part.last <= last) {
            self.closed.remove(0).file.remove()?;
        }
        if let Some(day) = &mut self.day
            && day.first <= last
        {
            day.remove_until(last)?;
        }
        Ok(())
    }

    /// The files, oldest first.
    pub(super) fn files(&self) -> Result<Vec<DayFile>, HistoryError> {
        DayFile::all(&self.directory)
    }
}

fn count_in(file: &DayFile, after: u64, last: u64, filter: &Filter) -> Result<u64, HistoryError> {
    let connection = super::reader::open(&file.path)?;
    let mut select = connection.prepare(
        "SELECT class, severity, verdict, identity, count(*) FROM events
         WHERE sequence > ?1 AND sequence <= ?2 GROUP BY 1, 2, 3, 4",
    )?;
    let mut rows = select.query([after, last])?;
    let mut sum = 0;
    while let Some(row) = rows.next()? {
        let (verdict, identity): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
        if filter.matches(
            row.get(0)?,
            row.get(1)?,
            verdict.as_deref(),
            identity.as_deref(),
        ) {
            sum += row.get::<_, u64>(4)?;
        }
    }
    Ok(sum)
}
