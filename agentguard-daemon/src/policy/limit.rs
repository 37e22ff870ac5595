//! Limits as policy writes them.

use std::fmt;

use agentguard_common::limit::Scope;

use super::source::Place;

/// New flows in a time, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In which time.
    pub period: RatePeriod,
    /// How many may come at once.
    pub burst: u64,
}

/// The time of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatePeriod {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

/// Bytes on the wire in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth {
    /// Bits of IP packets in a second.
    pub bits_per_second: u64,
}

/// Bytes in a period of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of IP packets.
    pub bytes: u64,
    /// In which period.
    pub period: QuotaPeriod,
}

/// The period of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaPeriod {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

/// Where hours, days and months begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuotaTime {
    /// In Coordinated Universal Time.
    #[default]
    Utc,
    /// In the time zone of the host.
    Local,
}

/// What one limiter allows; what is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSet {
    /// New flows that the identity opens.
    pub connections: Option<Rate>,
    /// Open flows, whoever opened them.
    pub concurrent: Option<u64>,
    /// Bytes out.
    pub egress: Option<Bandwidth>,
    /// Bytes in.
    pub ingress: Option<Bandwidth>,
    /// Bytes out in a period.
    pub egress_quota: Option<Quota>,
    /// Bytes in, in a period.
    pub ingress_quota: Option<Quota>,
    /// What is over passes, and is only recorded.
    pub is_audit: bool,
    /// Over a quota every packet is dropped, and not only new flows refused.
    pub quota_drops_packets: bool,
}

/// A table of limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What it allows.
    pub set: LimitSet,
    /// What is counted apart.
    pub per: Scope,
    /// Its name in the file.
    pub place: Place,
}

impl RatePeriod {
    /// Its length.
    #[must_use]
    pub const fn nanoseconds(self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        match self {
            Self::Second => SECOND,
            Self::Minute => 60 * SECOND,
            Self::Hour => 3_600 * SECOND,
        }
    }

    /// As policy writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "hour",
        }
    }
}

impl QuotaPeriod {
    /// As policy writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl LimitSet {
    /// Whether it limits nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.connections.is_none()
            && self.concurrent.is_none()
            && self.egress.is_none()
            && self.ingress.is_none()
            && self.egress_quota.is_none()
            && self.ingress_quota.is_none()
    }

    /// What it limits, by the keys of policy, as policy writes it.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("connections", self.connections.map(|it| it.to_string())),
            ("concurrent", self.concurrent.map(|it| it.to_string())),
            ("egress", self.egress.map(|it| it.to_string())),
            ("ingress", self.ingress.map(|it| it.to_string())),
            ("egress-quota", self.egress_quota.map(|it| it.to_string())),
            ("ingress-quota", self.ingress_quota.map(|it| it.to_string())),
        ]
        .into_iter()
        .filter_map(|(key, text)| Some((key, text?)))
    }
}

/// What a scope is called.
#[must_use]
pub const fn name_of_scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Identity => "identity",
        Scope::Process => "process",
        Scope::Cgroup => "cgroup",
        Scope::Destination => "destination",
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            period,
            burst,
        } = self;
        write!(formatter, "{count}/{} burst {burst}", period.name())
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [
            (1_000_000_000, "Gbit"),
            (1_000_000, "Mbit"),
            (1_000, "kbit"),
        ];
        let (value, unit) = largest_unit(self.bits_per_second, &UNITS, "bit");
        write!(formatter, "{value}{unit}/s")
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 8] = [
            (1 << 40, "TiB"),
            (1_000_000_000_000, "TB"),
            (1 << 30, "GiB"),
            (1_000_000_000, "GB"),
            (1 << 20, "MiB"),
            (1_000_000, "MB"),
            (1 << 10, "KiB"),
            (1_000, "kB"),
        ];
        let (value, unit) = largest_unit(self.bytes, &UNITS, "B");
        write!(formatter, "{value}{unit}/{}", self.period.name())
    }
}

/// `value` in the first of `units` that it is a whole number of.
fn largest_unit(
    value: u64,
    units: &[(u64, &'static str)],
    smallest: &'static str,
) -> (u64, &'static str) {
    units
        .iter()
        .find(|(size, _)| value >= *size && value.is_multiple_of(*size))
        .map_or((value, smallest), |&(size, unit)| (value / size, unit))
}
