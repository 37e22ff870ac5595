//! Limits: how many flows and bytes, by identity, by rule, and by process, cgroup or destination.
//!
//! A **limiter** is one count that something is taken from. What is configured of it ([`Limits`]) is
//! part of a generation; what was used of it ([`LimitState`]) is not, so that a reload gives nothing
//! back.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::capacity::MAX_LIMITERS;

/// What a limiter counts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Scope {
    /// All of the identity together.
    Identity = 0,
    /// Each process.
    Process = 1,
    /// Each cgroup.
    Cgroup = 2,
    /// Each remote address.
    Destination = 3,
}

/// A limiter and its scope in one word; 0 is none.
///
/// The limiter of an identity has the number of the identity. The others have numbers from
/// [`MAX_IDENTITIES`](crate::capacity::MAX_IDENTITIES) up.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct LimiterRef(pub u32);

impl LimiterRef {
    /// No limiter.
    pub const NONE: Self = Self(0);

    /// Of limiter `number`.
    #[must_use]
    pub const fn new(number: u32, scope: Scope) -> Self {
        Self(number | (scope as u32) << 30)
    }

    /// Its number, below [`MAX_LIMITERS`].
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 & (MAX_LIMITERS - 1)
    }

    /// Its [`Scope`] as a number.
    #[inline(always)]
    #[must_use]
    pub const fn scope(self) -> u32 {
        self.0 >> 30
    }
}

/// [`Limits::flags`]: what is over the limit passes and is recorded.
pub const LIMIT_AUDIT: u32 = 1;
/// [`Limits::flags`]: over the quota every packet is dropped, not only new flows.
pub const QUOTA_DROPS_PACKETS: u32 = 1 << 1;

/// Fractional bits of [`Bandwidth::cost`].
pub const COST_BITS: u32 = 16;

/// Generic cell rate algorithm over bytes: a bucket that holds `burst_ns` worth of them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Bandwidth {
    /// Nanoseconds that one byte takes, times 2^[`COST_BITS`]; 0 for no limit.
    pub cost: u64,
    /// Nanoseconds that the bucket holds.
    pub burst_ns: u64,
}

/// Bytes in a period of wall time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Quota {
    /// Bytes; 0 for no limit.
    pub bytes: u64,
    /// When the period ends: [`PeriodEnd::to_word`]. One word, so that the daemon can move it under
    /// running programs.
    pub end: u64,
    /// Length of the periods after this one in units of [`PeriodEnd::UNIT_BITS`], for the time that no
    /// daemon tells better.
    pub length: u64,
    /// How much greater the number of the next period is.
    pub step: u64,
}

/// Which period it is, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodEnd {
    /// Number of the period; grows at each boundary and never falls.
    pub number: u64,
    /// Boot clock in units of 2^[`Self::UNIT_BITS`] ns.
    pub end: u64,
}

impl PeriodEnd {
    /// About a millisecond: what fits a century into the rest of the word.
    pub const UNIT_BITS: u32 = 20;
    const END_BITS: u32 = 42;

    /// Both in one word.
    #[inline(always)]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.number << Self::END_BITS | (self.end & ((1 << Self::END_BITS) - 1))
    }

    /// From [`Self::to_word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            number: word >> Self::END_BITS,
            end: word & ((1 << Self::END_BITS) - 1),
        }
    }
}

impl Quota {
    /// Number of the period at `now_ns` of the boot clock.
    #[inline(always)]
    #[must_use]
    pub const fn period(&self, now_ns: u64) -> u64 {
        let PeriodEnd { number, end } = PeriodEnd::from_word(self.end);
        let now = now_ns >> PeriodEnd::UNIT_BITS;
        if now < end || self.length == 0 {
            number
        } else {
            number + self.step * (1 + (now - end) / self.length)
        }
    }
}

/// Both ways, out before in.
pub const OUT: usize = 0;
/// See [`OUT`].
pub const IN: usize = 1;

/// What one limiter allows in one generation. All zero, it limits nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Limits {
    /// Nanoseconds that one new flow takes; 0 for no limit on the rate of new flows.
    pub connect_cost_ns: u64,
    /// Nanoseconds that the bucket of new flows holds.
    pub connect_burst_ns: u64,
    /// Open flows; 0 for no limit.
    pub concurrent: u64,
    /// Bytes per time, out and in.
    pub bandwidth: [Bandwidth; 2],
    /// Bytes per period, out and in.
    pub quota: [Quota; 2],
    /// How many processes, cgroups or destinations are counted apart.
    pub entries: u32,
    /// `LIMIT_*` and `QUOTA_*` bits.
    pub flags: u32,
}

/// The counts that are taken from, of a whole limiter or of one process, cgroup or destination. Only
/// the kernel writes them, atomically.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Bucket {
    /// Boot clock at which the bucket of new flows is full again.
    pub connect_ns: u64,
    /// Open flows.
    pub open: u64,
    /// Boot clock at which the buckets of bytes are full again, out and in.
    pub bytes_ns: [u64; 2],
}

/// What was used of a limiter. Only the kernel writes it while programs run, atomically.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LimitState {
    /// Where the scope is [`Scope::Identity`]: what is taken from.
    pub bucket: Bucket,
    /// IP bytes of the quota period, out and in.
    pub used: [u64; 2],
    /// The quota period that they are of.
    pub period: [u64; 2],
    /// New flows that were let pass.
    pub admitted: u64,
    /// New flows over the rate.
    pub over_rate: u64,
    /// New flows over the number of open ones.
    pub over_concurrent: u64,
    /// New flows over the quota.
    pub over_quota: u64,
    /// New flows and packets without room to count them apart.
    pub over_entries: u64,
    /// Packets over the bandwidth or the quota, out and in.
    pub over_packets: [u64; 2],
    /// IP bytes of those.
    pub over_bytes: [u64; 2],
    /// Buckets of processes, cgroups or destinations that were made. How many were removed since is the
    /// daemon's to say: none of the two writes what the other does.
    pub made: u64,
    /// Boot clock at the last event of a refusal: one in [`EVENT_WINDOW_NS`].
    pub event_ns: u64,
}

/// A refusal is told of once in this time; the others are counted.
pub const EVENT_WINDOW_NS: u64 = 1_000_000_000;

/// Who has a [`Bucket`] of their own.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct BucketKey {
    /// The limiter.
    pub limiter: u32,
    /// Zero.
    pub reserved: u32,
    /// Process and its start, cgroup, or address.
    pub who: [u64; 2],
}

/// Whose limiter a rule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RuleLimiterKey {
    /// The identity.
    pub identity: u32,
    /// The rule.
    pub rule: u32,
    /// 0 or 1: the low bit of the generation.
    pub slot: u32,
}

/// The generic cell rate algorithm: `full_ns` is when the bucket is full again. Returns when it will
/// be after `cost_ns` is taken, or nothing where it holds less.
#[inline(always)]
#[must_use]
pub const fn take(full_ns: u64, now_ns: u64, cost_ns: u64, burst_ns: u64) -> Option<u64> {
    let from = if full_ns > now_ns { full_ns } else { now_ns };
    let next = from.wrapping_add(cost_ns);
    if next.wrapping_sub(now_ns) > burst_ns {
        None
    } else {
        Some(next)
    }
}

// As in `audit.rs`.
const _: () = {
    assert!(size_of::<Limits>() == 128);
    assert!(size_of::<LimitState>() == 152);
    assert!(size_of::<BucketKey>() == 24);
    assert!(size_of::<RuleLimiterKey>() == 12);
    assert!(MAX_LIMITERS.is_power_of_two());
};
