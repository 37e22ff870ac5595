//! Two clocks: the wall clock that people write, and the boot clock that the kernel programs read.

use agentguard_common::identity::NEVER;
use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

use crate::audit::BootClock;

/// Nanoseconds of `CLOCK_BOOTTIME`, which counts suspended time.
#[must_use]
pub fn boot_now_ns() -> u64 {
    // The kernel has this clock since 2.6.39; it cannot fail.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|time| u64::try_from(std::time::Duration::from(time).as_nanos()).ok())
        .unwrap_or(0)
}

/// How the two clocks stand to each other now.
#[must_use]
pub fn boot_clock() -> BootClock {
    let boot = SignedDuration::from_nanos(i64::try_from(boot_now_ns()).unwrap_or(i64::MAX));
    BootClock::new(
        Timestamp::now()
            .saturating_sub(boot)
            .unwrap_or(Timestamp::UNIX_EPOCH),
    )
}

/// The boot time, in nanoseconds, at which `expires` comes, when it is `now` and the boot clock
/// shows `boot_ns`; 0 where it has come already, [`NEVER`] without one.
#[must_use]
pub fn deadline_ns(expires: Option<Timestamp>, now: Timestamp, boot_ns: u64) -> u64 {
    let Some(expires) = expires else {
        return NEVER;
    };
    let left = expires.as_nanosecond() - now.as_nanosecond();
    match u64::try_from(left) {
        Ok(left) => boot_ns.saturating_add(left).min(NEVER - 1),
        Err(_) if left < 0 => 0,
        Err(_) => NEVER - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_on_the_boot_clock() {
        let now = Timestamp::from_second(1_000).unwrap();
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        assert_eq!(deadline_ns(None, now, 5), NEVER);
        assert_eq!(deadline_ns(at(1_002), now, 5), 2_000_000_005);
        assert_eq!(deadline_ns(at(1_000), now, 5), 5);
        assert_eq!(deadline_ns(at(999), now, 5), 0);
        assert!(deadline_ns(Some(Timestamp::MAX), now, u64::MAX - 9) < NEVER);
    }
}
