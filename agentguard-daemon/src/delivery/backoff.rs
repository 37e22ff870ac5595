//! How long to wait after a failure: twice as long each time, and never quite as long as others.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more; the first time again if something `went` through before it.
    pub(super) fn next(&mut self, went: bool) -> Duration {
        if went {
            self.failures = 0;
        }
        let full = FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST);
        self.failures += 1;
        // Each state of the hasher is another one: that is all the chance that this needs.
        let chance = RandomState::new().hash_one(self.failures) % 1_000;
        full.mul_f64(0.5 + chance as f64 / 2_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_minute_and_differ() {
        let mut backoff = Backoff::default();
        for full in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let wait = backoff.next(false).as_secs_f64();
            assert!((full / 2.0..=full).contains(&wait), "{wait} of {full}");
        }
        assert!(backoff.next(true) <= FIRST);
        let waits: Vec<_> = (0..20).map(|_| Backoff::default().next(false)).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
