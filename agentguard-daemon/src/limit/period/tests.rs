use agentguard_common::limit::Quota;

use super::*;

const HOUR_NS: u64 = 3_600_000_000_000;
const DAY_NS: u64 = 24 * HOUR_NS;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn quota(span: Span) -> Quota {
    Quota {
        bytes: 1,
        end: span.end.to_word(),
        length: span.length,
        step: span.step,
    }
}

#[test]
fn a_day_ends_at_midnight_of_the_zone() {
    let mut periods = Periods::default();
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let now = at("2026-11-25T22:00:00Z");
    let boot = 5 * HOUR_NS;
    let local = quota(periods.span(QuotaPeriod::Day, now, &zone, boot));
    let day = local.period(boot);
    assert_eq!(local.period(boot + HOUR_NS - 1), day);
    assert_eq!(local.period(boot + HOUR_NS + 2_000_000), day + 24);

    let utc = quota(Periods::default().span(QuotaPeriod::Day, now, &TimeZone::UTC, boot));
    let day = utc.period(boot);
    assert_eq!(utc.period(boot + 2 * HOUR_NS - 1), day);
    assert_eq!(utc.period(boot + 2 * HOUR_NS + 2_000_000), day + 24);
}

#[test]
fn the_kernel_counts_on_as_the_daemon_would() {
    for kind in [QuotaPeriod::Hour, QuotaPeriod::Day] {
        let now = at("2026-11-25T22:10:00Z");
        let mut periods = Periods::default();
        let before = quota(periods.span(kind, now, &TimeZone::UTC, 0));
        // Three days without a daemon.
        let later = 3 * DAY_NS;
        let then = now.checked_add(72.hours()).unwrap();
        let after = quota(periods.span(kind, then, &TimeZone::UTC, later));
        assert_eq!(before.period(later), after.period(later), "{kind:?}");
    }
}

#[test]
fn a_month_has_its_own_length() {
    let mut periods = Periods::default();
    let span = periods.span(
        QuotaPeriod::Month,
        at("2027-01-31T23:00:00Z"),
        &TimeZone::UTC,
        0,
    );
    let month = quota(span);
    let january = month.period(0);
    assert_eq!(month.period(HOUR_NS + 2_000_000), january + 31 * 24);
    // February, as the kernel has it without a daemon.
    assert_eq!(month.period(HOUR_NS + 27 * DAY_NS), january + 31 * 24);
    assert!(month.period(HOUR_NS + 28 * DAY_NS + 2_000_000) > january + 31 * 24);
}

#[test]
fn a_day_of_25_hours_ends_once() {
    let mut periods = Periods::default();
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let morning = at("2026-10-24T22:00:00Z");
    let long = quota(periods.span(QuotaPeriod::Day, morning, &zone, 0));
    let day = long.period(0);
    assert_eq!(long.period(25 * HOUR_NS - 1), day);
    let next = quota(periods.span(
        QuotaPeriod::Day,
        at("2026-10-25T23:00:00Z"),
        &zone,
        25 * HOUR_NS,
    ));
    assert_eq!(
        long.period(25 * HOUR_NS + 2_000_000),
        next.period(25 * HOUR_NS)
    );
}

/// The clock is set, and the daemon looks again.
#[test]
fn a_clock_that_is_set_moves_the_end_and_repeats_nothing() {
    let mut periods = Periods::default();
    let mut look = |now: &str, boot| {
        quota(periods.span(QuotaPeriod::Day, at(now), &TimeZone::UTC, boot)).period(boot)
    };
    let first = look("2026-11-25T10:00:00Z", 0);
    // Forward by a day and by a year: new days.
    let forward = look("2026-11-26T10:00:00Z", HOUR_NS);
    assert!(forward > first);
    let year = look("2027-11-26T10:00:00Z", HOUR_NS + 1);
    assert!(year > forward);
    // Back by a year and by a day: what was used stays used, until it is midnight there.
    let back = look("2026-11-26T10:00:00Z", HOUR_NS + 2);
    assert_eq!(back, year);
    let more = look("2026-11-25T10:00:00Z", HOUR_NS + 3);
    assert_eq!(more, year);
    let midnight = look("2026-11-26T00:00:00Z", HOUR_NS + 4);
    assert!(midnight > year);
    // A midnight that comes twice begins a new day twice.
    let before = look("2026-11-25T23:59:59Z", HOUR_NS + 5);
    assert_eq!(before, midnight);
    let after = look("2026-11-26T00:00:01Z", HOUR_NS + 6);
    assert!(after > midnight);
}

#[test]
fn another_kind_of_period_keeps_the_count_until_it_begins() {
    let mut periods = Periods::default();
    let now = at("2026-11-25T10:30:00Z");
    let mut number = |kind| quota(periods.span(kind, now, &TimeZone::UTC, 0)).period(0);
    let (hour, day, month) = (
        number(QuotaPeriod::Hour),
        number(QuotaPeriod::Day),
        number(QuotaPeriod::Month),
    );
    assert!(month < day && day < hour);
}
