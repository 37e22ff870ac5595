//! Paths of cgroups by their ids, for the records of what their tasks did.

use std::collections::{HashMap, VecDeque};

use agentguard_common::capacity::MAX_CGROUPS;

/// Removed cgroups that are remembered: their last events may still be in the ring.
const REMEMBERED: usize = 1_024;

/// The cgroups that are, and those that were lately.
#[derive(Debug, Default)]
pub(super) struct Paths {
    live: HashMap<u64, Box<[u8]>>,
    gone: VecDeque<(u64, Box<[u8]>)>,
}

impl Paths {
    /// Takes a new tree in place of the old one.
    pub(super) fn replace(&mut self, live: HashMap<u64, Box<[u8]>>) {
        self.live = live;
    }

    /// Adds a cgroup, unless there are more than can be labelled.
    pub(super) fn insert(&mut self, id: u64, path: &[u8]) {
        if self.live.len() < MAX_CGROUPS as usize {
            self.live.insert(id, path.into());
        }
    }

    /// A cgroup was removed.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(path) = self.live.remove(&id) {
            if self.gone.len() == REMEMBERED {
                self.gone.pop_front();
            }
            self.gone.push_back((id, path));
        }
    }

    /// Path of a cgroup.
    #[must_use]
    pub(super) fn path(&self, id: u64) -> Option<&[u8]> {
        let gone = || self.gone.iter().rev().find(|(gone, _)| *gone == id);
        self.live
            .get(&id)
            .or_else(|| gone().map(|(_, path)| path))
            .map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_cgroup_is_remembered_for_a_while() {
        let mut paths = Paths::default();
        paths.insert(1, b"/a");
        paths.remove(1);
        assert_eq!(paths.path(1), Some(&b"/a"[..]));
        for id in 2..2 + REMEMBERED as u64 {
            paths.insert(id, b"/b");
            paths.remove(id);
        }
        assert_eq!(paths.path(1), None);
        assert_eq!(paths.path(2), Some(&b"/b"[..]));
    }
}
