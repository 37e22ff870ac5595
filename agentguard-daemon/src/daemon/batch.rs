//! When to empty the audit ring: at once after a quiet time, else in batches.
//!
//! The kernel wakes the reader for an event that finds the ring empty. A reader that empties the ring
//! at once makes the next event find it empty again, and every event then costs the task that caused it
//! a wake-up. So after one emptying the next waits [`PAUSE`]: what the ring holds is then a burst of over a
//! million events a second, more than are read in that time anyway.

use std::time::{Duration, Instant};

/// Most that an event waits in the ring while its reader is idle.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// When the ring was emptied last, and when it is to be again.
#[derive(Debug, Default)]
pub(super) struct Batches {
    rest_until: Option<Instant>,
    due: Option<Instant>,
}

impl Batches {
    /// The kernel has woken the reader. Returns whether to read at once; otherwise it is due soon.
    pub(super) fn woken(&mut self, now: Instant) -> bool {
        let rest = self.rest_until.filter(|&rest| rest > now);
        self.due = self.due.or(rest);
        rest.is_none()
    }

    /// The ring was read, up to its end or not.
    pub(super) fn read(&mut self, now: Instant, to_the_end: bool) {
        self.rest_until = Some(now + PAUSE);
        self.due = (!to_the_end).then_some(now);
    }

    /// What is read has no place to go yet: the ring is looked at again soon.
    pub(super) fn wait(&mut self, now: Instant) {
        self.rest_until = Some(now + PAUSE);
        self.due = self.rest_until;
    }

    /// When to read without being woken.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_event_is_read_at_once_and_the_next_ones_together() {
        let mut batches = Batches::default();
        let now = Instant::now();
        assert!(batches.woken(now));
        batches.read(now, true);
        assert_eq!(batches.due(), None);
        assert!(!batches.woken(now + MOMENT));
        assert_eq!(batches.due(), Some(now + PAUSE));
        batches.read(now + PAUSE, true);
        assert_eq!(batches.due(), None);
        assert!(batches.woken(now + PAUSE * 2));
    }

    #[test]
    fn what_is_left_is_due_at_once() {
        let mut batches = Batches::default();
        let now = Instant::now();
        batches.read(now, false);
        assert_eq!(batches.due(), Some(now));
    }
}
