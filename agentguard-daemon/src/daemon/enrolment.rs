//! When to look at the open sockets again: soon after tasks moved, and not more often than needed.

use std::time::{Duration, Instant};

/// Between two scans, however many tasks move.
const PAUSE: Duration = Duration::from_millis(50);

/// What is wanted and when it was done last.
#[derive(Debug, Default)]
pub(super) struct Enrolment {
    wanted: bool,
    last: Option<Instant>,
}

impl Enrolment {
    /// Something happened after which sockets may carry an old tag.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// When the next scan is due, if one is wanted; the last want is always followed by a scan.
    #[must_use]
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.wanted
            .then(|| self.last.map_or(now, |last| last + PAUSE))
    }

    /// A scan begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.wanted = false;
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_keep_their_distance_and_the_last_want_is_served() {
        let start = Instant::now();
        let mut enrolment = Enrolment::default();
        assert_eq!(enrolment.due(start), None);
        enrolment.want();
        assert_eq!(enrolment.due(start), Some(start));
        enrolment.begin(start);
        assert_eq!(enrolment.due(start), None);
        enrolment.want();
        enrolment.want();
        assert_eq!(enrolment.due(start), Some(start + PAUSE));
        enrolment.begin(start + PAUSE);
        assert_eq!(enrolment.due(start + PAUSE), None);
    }
}
