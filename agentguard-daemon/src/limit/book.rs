//! What is to survive the daemon: the numbers of limiters until the next boot, and what was used of
//! quotas beyond it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use agentguard_common::capacity::{MAX_IDENTITIES, MAX_LIMITERS};
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::period::{Periods, Span};
use crate::{file, policy::limit::QuotaPeriod};

/// Numbers, and what was used.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    page: Page,
    is_changed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Page {
    boot_id: String,
    /// Limiters besides those of identities, by name. Valid in this boot only.
    numbers: BTreeMap<String, u32>,
    /// By the name of the limiter.
    used: BTreeMap<String, Used>,
    periods: Periods,
}

/// What was used of the quotas of one limiter, out and in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Used {
    /// The periods.
    pub period: [u64; 2],
    /// IP bytes.
    pub bytes: [u64; 2],
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The file cannot be read or written.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path} is damaged: {detail}; remove it to begin all quotas anew", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        detail: String,
    },
    /// Every number of this boot has been given.
    #[error(
        "more than {} limits of rules, processes, cgroups and destinations since the host booted",
        MAX_LIMITERS - MAX_IDENTITIES
    )]
    Full,
}

impl Book {
    /// Opens the book at `path` for the boot `boot_id`. Of another boot only what was used counts.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read, or is damaged: to begin anew would give back what was used.
    pub fn open(path: &Path, boot_id: &str) -> Result<Self, BookError> {
        let mut page: Page = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| BookError::Damaged {
                path: path.to_owned(),
                detail: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Page::default(),
            Err(source) => {
                return Err(BookError::Io {
                    what: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        if page.boot_id != boot_id {
            boot_id.clone_into(&mut page.boot_id);
            page.numbers.clear();
        }
        Ok(Self {
            path: path.to_owned(),
            page,
            is_changed: false,
        })
    }

    /// The number of the limiter `name`: the same until the host boots again.
    ///
    /// # Errors
    ///
    /// If there are no more.
    pub fn number(&mut self, name: &str) -> Result<u32, BookError> {
        if let Some(&number) = self.page.numbers.get(name) {
            return Ok(number);
        }
        let next = self.page.numbers.len();
        let number = u32::try_from(next)
            .ok()
            .and_then(|next| next.checked_add(MAX_IDENTITIES))
            .filter(|&number| number < MAX_LIMITERS)
            .ok_or(BookError::Full)?;
        self.page.numbers.insert(name.to_owned(), number);
        self.is_changed = true;
        Ok(number)
    }

    /// What was used of the quotas of `name`.
    #[must_use]
    pub fn used(&self, name: &str) -> Option<Used> {
        self.page.used.get(name).copied()
    }

    /// Notes what was used.
    pub fn note_used(&mut self, name: &str, used: Used) {
        if self.page.used.get(name) != Some(&used) {
            self.page.used.insert(name.to_owned(), used);
            self.is_changed = true;
        }
    }

    /// The period of `kind` that it is `now` in `zone`, when the boot clock shows `boot_ns`.
    pub fn span(
        &mut self,
        kind: QuotaPeriod,
        now: Timestamp,
        zone: &TimeZone,
        boot_ns: u64,
    ) -> Span {
        let before = self.page.periods.clone();
        let span = self.page.periods.span(kind, now, zone, boot_ns);
        self.is_changed |= before != self.page.periods;
        span
    }

    /// Puts on disk what changed.
    ///
    /// # Errors
    ///
    /// If it cannot be written: what is there stays whole.
    pub fn save(&mut self) -> Result<(), BookError> {
        if !self.is_changed {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&self.page).map_err(|error| BookError::Damaged {
            path: self.path.clone(),
            detail: error.to_string(),
        })?;
        file::replace(&self.path, &bytes).map_err(|source| BookError::Io {
            what: "write",
            path: self.path.clone(),
            source,
        })?;
        self.is_changed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_last_a_boot_and_quotas_longer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        let mut book = Book::open(&path, "one").unwrap();
        let used = Used {
            period: [24, 0],
            bytes: [7, 0],
        };
        assert_eq!(book.number("a").unwrap(), MAX_IDENTITIES);
        assert_eq!(book.number("b").unwrap(), MAX_IDENTITIES + 1);
        book.note_used("sync", used);
        book.save().unwrap();

        let mut book = Book::open(&path, "one").unwrap();
        assert_eq!(book.number("b").unwrap(), MAX_IDENTITIES + 1);
        assert_eq!(book.number("c").unwrap(), MAX_IDENTITIES + 2);

        let mut book = Book::open(&path, "two").unwrap();
        assert_eq!(book.number("b").unwrap(), MAX_IDENTITIES);
        assert_eq!(book.used("sync"), Some(used));
    }

    #[test]
    fn a_damaged_book_is_not_read_as_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        fs::write(&path, b"{\"boot-id\":\"one\"").unwrap();
        let error = Book::open(&path, "one").unwrap_err();
        assert!(
            error.to_string().contains("limits.json is damaged"),
            "{error}"
        );
    }

    #[test]
    fn there_is_an_end_of_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = Book::open(&directory.path().join("limits.json"), "one").unwrap();
        for index in 0..MAX_LIMITERS - MAX_IDENTITIES {
            book.number(&index.to_string()).unwrap();
        }
        assert!(matches!(book.number("more"), Err(BookError::Full)));
        assert_eq!(book.number("0").unwrap(), MAX_IDENTITIES);
    }
}
