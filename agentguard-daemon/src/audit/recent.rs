//! The last records, kept in memory for `agentguard events`.

use std::collections::VecDeque;

use agentguard_common::verdict::Verdict;

use super::record::AuditRecord;

/// Records kept.
pub const CAPACITY: usize = 1_024;

/// A record and the line that the sinks got of it.
#[derive(Debug)]
pub struct Entry {
    /// Its number, from 1, without gaps.
    pub sequence: u64,
    /// The record.
    pub record: AuditRecord,
    /// Its JSON line.
    pub line: String,
}

/// The last [`CAPACITY`] records.
#[derive(Debug, Default)]
pub struct Recent {
    entries: VecDeque<Entry>,
    pushed: u64,
}

impl Recent {
    /// Adds a record and forgets the oldest if there are too many.
    pub fn push(&mut self, record: AuditRecord, line: String) {
        if self.entries.len() == CAPACITY {
            self.entries.pop_front();
        }
        self.pushed += 1;
        self.entries.push_back(Entry {
            sequence: self.pushed,
            record,
            line,
        });
    }

    /// The kept records with a number above `sequence`, oldest first. A first number above
    /// `sequence + 1` means that some were forgotten.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        let start = self
            .entries
            .partition_point(|entry| entry.sequence <= sequence);
        self.entries.range(start..)
    }
}

/// Which records somebody wants to see.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this identity only.
    pub identity: Option<String>,
    /// With this verdict only.
    pub verdict: Option<Verdict>,
}

impl Filter {
    /// Whether `record` is wanted. A record without an identity or verdict is not, where one is
    /// asked for.
    #[must_use]
    pub fn matches(&self, record: &AuditRecord) -> bool {
        let name = record.actor().map(|actor| &actor.name);
        (self.identity.is_none() || self.identity.as_ref() == name)
            && (self.verdict.is_none() || self.verdict == record.verdict())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_ring_is_bounded_and_numbered() {
        let mut recent = Recent::default();
        let time = Timestamp::UNIX_EPOCH;
        for number in 1..=1_030 {
            recent.push(AuditRecord::DaemonStarted { time }, number.to_string());
        }
        let all: Vec<_> = recent.after(0).map(|entry| entry.line.as_str()).collect();
        assert_eq!(all.len(), CAPACITY);
        assert_eq!((all[0], all[CAPACITY - 1]), ("7", "1030"));
        let new: Vec<_> = recent.after(1_028).map(|entry| entry.sequence).collect();
        assert_eq!(new, [1_029, 1_030]);
        assert_eq!(recent.after(1_030).count(), 0);
    }
}
