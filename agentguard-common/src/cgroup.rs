//! What the kernel tells the daemon of cgroups that come, go and gain tasks.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::identity::AgentId;

/// What happened to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(u8)]
pub enum CgroupEventKind {
    /// It was made.
    Created = 0,
    /// It was removed.
    Removed = 1,
    /// A task moved into it; its open sockets may carry another identity's tag.
    TaskAttached = 2,
}

/// Bytes of a cgroup path that an event holds.
pub const CGROUP_PATH_BYTES: usize = 512;

/// One record of the cgroup ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupEvent {
    /// Id of the cgroup.
    pub cgroup_id: u64,
    /// Length of the path with its NUL; a path that fills the buffer may be cut.
    pub path_len: u32,
    /// What happened.
    pub kind: CgroupEventKind,
    /// Zero.
    pub reserved: [u8; 3],
    /// Path below the root of the hierarchy, NUL terminated.
    pub path: [u8; CGROUP_PATH_BYTES],
}

/// Key of the label map: one cgroup in one generation slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LabelKey {
    /// Id of the cgroup.
    pub cgroup_id: u64,
    /// 0 or 1: the low bit of the generation.
    pub slot: u64,
}

/// Key of the label of cgroups that no selector means: no cgroup has this id.
pub const NO_CGROUP: u64 = 0;

/// What decided whose a process is. Of several the greatest wins; of equals the nearest cgroup's.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    TryFromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(u8)]
pub enum Rank {
    /// Nothing: it is unknown.
    Default = 0,
    /// A login session, a user or a group.
    Session = 1,
    /// A cgroup path.
    Cgroup = 2,
    /// A systemd unit, a slice or a container.
    Unit = 3,
    /// Its executable.
    Executable = 4,
    /// An explicit `agentguard run`.
    Launch = 5,
}

/// Whom a labelled cgroup and all below it belong to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Label {
    /// Facts that hold for its processes, see [`crate::fact`].
    pub facts: u64,
    /// Whose its processes are where no choice holds.
    pub identity: AgentId,
    /// [`Rank`] of that, as a number.
    pub rank: u32,
    /// First choice of another identity, or [`crate::fact::NO_CHOICE`].
    pub choices: u32,
    /// Zero.
    pub reserved: u32,
}

// As in `audit.rs`.
const _: () = {
    assert!(size_of::<CgroupEvent>() == 528);
    assert!(core::mem::offset_of!(CgroupEvent, path) == 16);
    assert!(size_of::<LabelKey>() == 16);
    assert!(size_of::<Label>() == 24);
};
