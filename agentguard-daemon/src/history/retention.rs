//! How much is kept, and what happens when that is not enough.

use jiff::{ToSpan as _, civil::Date};

use super::{Cursors, HistoryError, store::Store};

/// What happens when there is no room for what some sink does not have yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The oldest records go, and a record says which sink will never have how many of them.
    #[default]
    DropOldest,
    /// No identity may open a flow until there is room.
    RefuseNewFlows,
}

/// So few records of the file that is written stay: the record that says that they go takes as much room.
const FEW: u64 = 8;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of all files together.
    pub max_bytes: u64,
    /// Days.
    pub max_days: u32,
    /// What happens when that is not enough.
    pub on_full: OnFull,
}

/// Records that a sink will never have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) sink: String,
    pub(super) records: u64,
}

/// How full the history is of what some sink does not have yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fill {
    pub(super) bytes: u64,
    /// Of the most that there may be; 100 and more is full.
    pub(super) percent: u64,
}

impl Retention {
    /// The last of the records that are to go now, since they are too old or too much; none where nothing
    /// is, or where they have to wait for a sink.
    pub(super) fn due(
        &self,
        store: &Store,
        cursors: &Cursors,
        today: Date,
    ) -> Result<Option<u64>, HistoryError> {
        let oldest_day = today
            .checked_sub(i64::from(self.max_days).days())
            .unwrap_or(Date::MIN);
        let mut excess = store.bytes()?.saturating_sub(self.max_bytes);
        let mut due = None;
        for closed in store.closed() {
            if closed.file.date >= oldest_day && excess == 0 {
                return Ok(due);
            }
            if !self.may_go(cursors, closed.last) {
                return Ok(due);
            }
            due = Some(closed.last);
            excess = excess.saturating_sub(closed.bytes);
        }
        if excess == 0 {
            return Ok(due);
        }
        let last = store.last_of_oldest(excess)?;
        let is_due = |last: &u64| *last >= store.first() + FEW && self.may_go(cursors, *last);
        Ok(last.filter(is_due).or(due))
    }

    /// The last of the records that may go to make some room on a full disk.
    pub(super) fn spare(
        &self,
        store: &Store,
        cursors: &Cursors,
    ) -> Result<Option<u64>, HistoryError> {
        let last = match store.closed().next() {
            Some(closed) => Some(closed.last),
            None => store.last_of_oldest(0)?,
        };
        Ok(last.filter(|last| self.may_go(cursors, *last)))
    }

    fn may_go(&self, cursors: &Cursors, last: u64) -> bool {
        self.on_full == OnFull::DropOldest || cursors.least().is_none_or(|least| least >= last)
    }

    /// How full `store` is of what some sink does not have.
    pub(super) fn fill(&self, store: &Store, cursors: &Cursors) -> Result<Fill, HistoryError> {
        let (first, next) = (store.first(), store.position().sequence);
        let Some(least) = cursors.least() else {
            return Ok(Fill::default());
        };
        let waiting = next - 1 - least.clamp(first - 1, next - 1);
        // Records differ in size, but those of a history not by much.
        let share = |of: u64| {
            let share = u128::from(of) * u128::from(waiting) / u128::from((next - first).max(1));
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        let bytes = share(store.bytes()?);
        Ok(Fill {
            bytes,
            percent: bytes.saturating_mul(100) / self.max_bytes.max(1),
        })
    }
}

/// Moves the cursors past the records until `last`, and says who had not had them and would have got them.
pub(super) fn pass(store: &Store, cursors: &Cursors, last: u64) -> Vec<Gap> {
    let gone = store.first() - 1;
    cursors
        .behind(last)
        .into_iter()
        .filter_map(|behind| {
            let after = behind.cursor.max(gone);
            let records = if behind.filter.takes_all() {
                last - after
            } else {
                store
                    .count(after, last, &behind.filter)
                    .unwrap_or_else(|error| {
                        tracing::error!(%error, sink = behind.sink, "all that goes is taken for lost");
                        last - after
                    })
            };
            cursors.set(&behind.sink, last);
            (records > 0).then_some(Gap {
                sink: behind.sink,
                records,
            })
        })
        .collect()
}
