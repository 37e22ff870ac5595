//! What the kernel knows of an identity.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limit::LimiterRef;

/// Number of an identity: stable for its name within one boot, never reused.
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
pub struct AgentId(pub u32);

impl AgentId {
    /// No identity yet: a socket or cgroup that nobody has looked at.
    pub const NONE: Self = Self(0);
    /// What no selector matches, outside the agents slice.
    pub const UNKNOWN: Self = Self(1);
    /// What no selector matches, inside the agents slice.
    pub const UNKNOWN_AGENT: Self = Self(2);
    /// People in their login sessions, where no selector matches.
    pub const HUMAN: Self = Self(3);
    /// Scheduled jobs, where no selector matches.
    pub const CRON: Self = Self(4);
    /// Services of the system, where no selector matches.
    pub const SERVICE: Self = Self(5);
    /// The first id given to a named identity; those before it are for built-in ones.
    pub const FIRST_NAMED: Self = Self(16);
}

/// Denials take effect. Without it the identity is in audit mode: they are only recorded.
pub const FLAG_ENFORCE: u32 = 1;
/// Only what a rule allows is allowed. Without it everything is, and is counted.
pub const FLAG_RESTRICTED: u32 = 1 << 1;
/// May open raw sockets.
pub const FLAG_RAW_SOCKETS: u32 = 1 << 2;
/// The record is in use: the id names an identity of this generation.
pub const FLAG_PRESENT: u32 = 1 << 3;

/// Flows that pass are counted and not written as events: the unknown rest of a host would drown what
/// is asked about.
pub const FLAG_QUIET: u32 = 1 << 4;

/// Something limits its new flows: their rate, how many are open, or a quota.
pub const FLAG_FLOW_LIMITS: u32 = 1 << 5;
/// Some of its rules have limits of their own.
pub const FLAG_RULE_LIMITS: u32 = 1 << 6;
/// The history has no room: what it may do cannot be recorded, so it may open no flow.
pub const FLAG_HISTORY_FULL: u32 = 1 << 8;
/// Something limits its bytes: a bandwidth or a quota.
pub const FLAG_BYTE_LIMITS: u32 = 1 << 7;

/// An identity that does not end.
pub const NEVER: u64 = u64::MAX;

/// How one identity is judged in one generation.
///
/// A record without [`FLAG_PRESENT`] belongs to an identity that the generation no longer has; it is
/// judged as unknown.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct IdentityRecord {
    /// Nanoseconds of the boot clock (`CLOCK_BOOTTIME`) at which the identity ends, or [`NEVER`].
    pub expires_ns: u64,
    /// Which rules apply: identities with the same roles share a profile.
    pub profile: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// First choice of a variant whose rules have conditions, or [`crate::fact::NO_CHOICE`].
    pub variants: u32,
    /// Bits of the socket mark that are set; only those of `mark_mask` count.
    pub mark: u32,
    /// Bits of the socket mark that are agentguard's; 0 leaves the mark alone.
    pub mark_mask: u32,
    /// Differentiated services code point (RFC 2474) shifted left by two, or [`NO_DSCP`].
    pub traffic_class: u32,
    /// The limiter of the identity: its own number, of a variant that of the identity.
    pub limiter: AgentId,
    /// Its limiter by process, cgroup or destination.
    pub narrower: LimiterRef,
}

/// Leave the traffic class alone.
pub const NO_DSCP: u32 = u32::MAX;

impl IdentityRecord {
    /// Whether `flag` is set.
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

// As in `audit.rs`.
const _: () = assert!(size_of::<IdentityRecord>() == 40);
