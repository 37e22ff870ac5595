//! The periods of quotas: hours, days and months of the wall clock, for programs that read the boot
//! clock.
//!
//! A period has the number of the hour that it begins with, counted from 1970. So the numbers of all
//! kinds of periods are of one scale, and a quota that becomes another kind of quota keeps its count
//! until that begins anew. A wall clock that is set back would repeat numbers: [`Turn`] keeps them
//! growing, so that a period is used once, and ends at the time that the wall clock says.

use agentguard_common::limit::PeriodEnd;
use jiff::{RoundMode, Timestamp, ToSpan, Unit, ZonedDateTime, ZonedDateTimeRound, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::policy::limit::QuotaPeriod;

const HOUR_S: i64 = 3_600;

/// What moves the numbers of one kind of period on where the wall clock went back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Turn {
    /// Hours that numbers are moved on.
    pub offset: u64,
    /// The hour that the last period seen begins with.
    pub last: u64,
}

/// The period that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its number and end.
    pub end: PeriodEnd,
    /// How long the next one is, in units of [`PeriodEnd::UNIT_BITS`].
    pub length: u64,
    /// How much greater its number is.
    pub step: u64,
}

/// All kinds of periods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Periods {
    hour: Turn,
    day: Turn,
    month: Turn,
}

impl Periods {
    /// The period of `kind` that it is `now` in `zone`, when the boot clock shows `boot_ns`.
    pub fn span(
        &mut self,
        kind: QuotaPeriod,
        now: Timestamp,
        zone: &TimeZone,
        boot_ns: u64,
    ) -> Span {
        let (start, next, after) = bounds(kind, &now.to_zoned_datetime(zone.clone()));
        let turn = match kind {
            QuotaPeriod::Hour => &mut self.hour,
            QuotaPeriod::Day => &mut self.day,
            QuotaPeriod::Month => &mut self.month,
        };
        let number = turn.number(hours(start));
        let left = u64::try_from(next.as_nanosecond() - now.as_nanosecond()).unwrap_or(0);
        let length = u64::try_from(after.as_nanosecond() - next.as_nanosecond()).unwrap_or(0);
        Span {
            end: PeriodEnd {
                number,
                // Not a moment early: the last packet of a period is not the first of the next one.
                end: (boot_ns.saturating_add(left) >> PeriodEnd::UNIT_BITS) + 1,
            },
            length: length >> PeriodEnd::UNIT_BITS,
            step: hours(next).saturating_sub(hours(start)).max(1),
        }
    }
}

impl Turn {
    fn number(&mut self, hour: u64) -> u64 {
        if hour < self.last {
            self.offset += self.last - hour;
        }
        self.last = hour;
        hour + self.offset
    }
}

fn hours(time: Timestamp) -> u64 {
    u64::try_from(time.as_second().div_euclid(HOUR_S)).unwrap_or(0)
}

/// When the period of `now` began, when it ends, and when the next one ends.
fn bounds(kind: QuotaPeriod, now: &ZonedDateTime) -> (Timestamp, Timestamp, Timestamp) {
    let begin = |at: ZonedDateTime| match kind {
        QuotaPeriod::Hour => at.round(
            ZonedDateTimeRound::new()
                .smallest(Unit::Hour)
                .mode(RoundMode::Trunc),
        ),
        QuotaPeriod::Day => at.start_of_day(),
        QuotaPeriod::Month => at.first_of_month().and_then(|first| first.start_of_day()),
    };
    let step = match kind {
        QuotaPeriod::Hour => 1.hour(),
        QuotaPeriod::Day => 1.day(),
        QuotaPeriod::Month => 1.month(),
    };
    let walk = || {
        let start = begin(now.clone())?;
        let next = begin(start.checked_add(step)?)?;
        let after = begin(next.checked_add(step)?)?;
        Ok::<_, jiff::Error>((start.timestamp(), next.timestamp(), after.timestamp()))
    };
    // Beyond the year 9999 there is no next period.
    walk().unwrap_or((now.timestamp(), Timestamp::MAX, Timestamp::MAX))
}

#[cfg(test)]
mod tests;
