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
    /// Forgets what is too old or too much, and says who misses it.
    pub(super) fn apply(
        &self,
        store: &mut Store,
        cursors: &Cursors,
        today: Date,
    ) -> Result<Vec<Gap>, HistoryError> {
        let mut gaps = Vec::new();
        let oldest_day = today
            .checked_sub(i64::from(self.max_days).days())
            .unwrap_or(Date::MIN);
        while let Some((file, last)) = store.oldest_closed() {
            let is_wanted = file.date >= oldest_day && store.bytes()? <= self.max_bytes;
            if is_wanted || !self.may_forget(cursors, last) {
                break;
            }
            gaps.extend(pass(store, cursors, last));
            cursors.save()?;
            store.remove_oldest()?;
        }
        while store.oldest_closed().is_none() && store.bytes()? > self.max_bytes {
            if self.forget_some(store, cursors, &mut gaps)?.is_none() {
                break;
            }
        }
        Ok(gaps)
    }

    /// Makes some room on a full disk; whether there was anything to give.
    pub(super) fn make_room(
        &self,
        store: &mut Store,
        cursors: &Cursors,
    ) -> Result<Vec<Gap>, HistoryError> {
        let mut gaps = Vec::new();
        if let Some((_, last)) = store.oldest_closed() {
            if self.may_forget(cursors, last) {
                gaps.extend(pass(store, cursors, last));
                store.remove_oldest()?;
            }
        } else {
            self.forget_some(store, cursors, &mut gaps)?;
        }
        Ok(gaps)
    }

    fn forget_some(
        &self,
        store: &mut Store,
        cursors: &Cursors,
        gaps: &mut Vec<Gap>,
    ) -> Result<Option<()>, HistoryError> {
        let Some(last) = store.next_to_forget()? else {
            return Ok(None);
        };
        if !self.may_forget(cursors, last) {
            return Ok(None);
        }
        gaps.extend(pass(store, cursors, last));
        cursors.save()?;
        store.forget_some()?;
        Ok(Some(()))
    }

    fn may_forget(&self, cursors: &Cursors, last: u64) -> bool {
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

/// Moves the cursors past the records until `last`, which are in the oldest file, and says who had not had
/// them and would have got them.
fn pass(store: &Store, cursors: &Cursors, last: u64) -> Vec<Gap> {
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
                    .count_oldest(after, last, &behind.filter)
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
