//! Facts: conditions of a policy, each a bit, that hold for a process or not. Which bit means what
//! is the compiler's choice in each generation, but for [`LOGIN`] and [`ON_HOST`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::identity::AgentId;

/// The process belongs to a login: it has a login uid.
pub const LOGIN: u64 = 1;

/// Its executable was found in the host's own tree of files: below the root that the daemon sees, and
/// not in a mount namespace that an unprivileged user made, where paths are what that user says.
pub const ON_HOST: u64 = 1 << 1;

/// The first bit that the compiler gives out.
pub const FIRST_NAMED: u32 = 2;

/// Facts that one generation can tell apart.
pub const MAX_FACTS: u32 = 64;

/// Number of no choice: the end of a chain.
pub const NO_CHOICE: u32 = 0;

/// Choices that one chain can have.
pub const MAX_CHAIN: u32 = 16;

/// One link of a chain of identities, the first of which whose conditions hold is chosen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Choice {
    /// All of these facts hold.
    pub required: u64,
    /// None of these facts holds.
    pub forbidden: u64,
    /// Who it then is.
    pub identity: AgentId,
    /// `FLAG_*` bits of `process.rs`.
    pub flags: u32,
    /// Number of the next choice, or [`NO_CHOICE`].
    pub next: u32,
    /// Zero.
    pub reserved: u32,
}

impl Choice {
    /// Whether its conditions hold.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, facts: u64) -> bool {
        facts & self.required == self.required && facts & self.forbidden == 0
    }
}

/// [`UserKey::kind`]: a user.
pub const KIND_USER: u32 = 0;
/// [`UserKey::kind`]: a group.
pub const KIND_GROUP: u32 = 1;

/// A user or group in one generation slot; its value is the facts that hold for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UserKey {
    /// Number of the user or group in the initial user namespace.
    pub id: u32,
    /// `KIND_*`.
    pub kind: u32,
    /// 0 or 1: the low bit of the generation.
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the match of an executable says.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ExecutableSet {
    /// Facts that hold for the process that runs it.
    pub own_facts: u64,
    /// Facts that hold for the children of that process.
    pub parent_facts: u64,
    /// First choice of identity, or [`NO_CHOICE`].
    pub choices: u32,
    /// Zero.
    pub reserved: u32,
}

// As in `audit.rs`.
const _: () = {
    assert!(size_of::<Choice>() == 32);
    assert!(size_of::<ExecutableSet>() == 24);
};
