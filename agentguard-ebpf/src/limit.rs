//! Limits: what is taken from the limiters of an identity, of a rule, and of one process, cgroup or
//! destination.
//!
//! A flow takes from up to three: that of its identity, the narrower one of the identity, and that of
//! the rule that let it pass. Either all of them have room, or none is taken from. Each is one
//! compare-and-exchange, so what is let pass is exact on any number of CPUs.

mod bytes;
mod flow;
mod maps;

use agentguard_common::{limit::LimiterRef, verdict::Reason};

pub use self::{
    bytes::Bytes,
    flow::{Held, REMEMBERED_PEERS, admit, give_back, has_room, hold},
    maps::limiter_of_rule,
};

/// Limiters that one flow can have.
const LIMITERS: usize = 3;

/// How a limiter answers. In one word, since global functions return no more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Answer(u32);

impl Answer {
    /// There was room.
    pub const ROOM: Self = Self(0);
    const OVER: u32 = 1 << 8;
    const AUDIT: u32 = 1 << 9;
    const SILENT: u32 = 1 << 10;

    #[inline(always)]
    const fn over(reason: Reason) -> Self {
        Self(Self::OVER | reason as u32)
    }

    #[inline(always)]
    const fn and(self, flag: u32, is_set: bool) -> Self {
        if is_set { Self(self.0 | flag) } else { self }
    }

    /// Whether the limit is reached.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        self.0 & Self::OVER != 0
    }

    /// Whether that is only recorded.
    #[inline(always)]
    pub const fn is_audit(self) -> bool {
        self.0 & Self::AUDIT != 0
    }

    /// Whether it has been told of a moment ago.
    #[inline(always)]
    pub const fn is_silent(self) -> bool {
        self.0 & Self::SILENT != 0
    }

    /// Which limit it is.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self.0 as u8 {
            9 => Reason::RateLimit,
            10 => Reason::ConcurrencyLimit,
            11 => Reason::Quota,
            13 => Reason::HistoryFull,
            _ => Reason::LimitEntries,
        }
    }

    /// Whether the flow is not to be.
    #[inline(always)]
    pub const fn refuses(self) -> bool {
        self.is_over() && !self.is_audit()
    }
}

/// Whether there is such a limiter.
#[inline(always)]
const fn is_some(limiter: LimiterRef) -> bool {
    limiter.0 != LimiterRef::NONE.0
}
