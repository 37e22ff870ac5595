//! What the kernel keeps of a process, and what it tells the daemon of one that starts a program.
//!
//! An *exec* is one run of one executable. Forked children share the exec of their parent until they
//! start a program of their own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::identity::AgentId;

/// Bytes of a path that selectors look at, its NUL included. A longer one matches no selector.
pub const PATH_BYTES: usize = 512;

/// The number of no exec: of a process that nobody has looked at yet.
pub const NO_EXEC: u64 = 0;

/// [`ProcessLabel::flags`]: the identity is kept where the next executable matches no selector.
pub const FLAG_INHERIT: u32 = 1;

/// What a process carries; its key is the process id (thread group) in the initial namespace. Written by the kernel programs at fork,
/// exec and exit, and by the daemon for processes older than the programs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ProcessLabel {
    /// Number of the exec, unique within a boot.
    pub exec_id: u64,
    /// The generation that `facts` and `identity` were found in.
    pub generation: u64,
    /// Facts of its executable, its script and its parent, see [`crate::fact`].
    pub facts: u64,
    /// Facts that its children get, as children of this executable.
    pub child_facts: u64,
    /// Whom an executable selector makes it, or [`AgentId::NONE`].
    pub identity: AgentId,
    /// `FLAG_*` bits.
    pub flags: u32,
}

/// [`ExecEvent::flags`]: the path was longer than [`PATH_BYTES`] or could not be read whole.
pub const EXEC_PATH_CUT: u32 = 1;
/// [`ExecEvent::flags`]: the path is one of the host's own tree, see [`crate::fact::ON_HOST`].
pub const EXEC_ON_HOST: u32 = 1 << 1;

/// One record of the process ring: a process has just started a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecEvent {
    /// Boot clock, nanoseconds.
    pub time_ns: u64,
    /// The exec that begins.
    pub exec_id: u64,
    /// The exec of the process itself until now; that of its parent if it was forked from it.
    pub former_exec_id: u64,
    /// The exec of its parent.
    pub parent_exec_id: u64,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Inode number of the executable.
    pub inode: u64,
    /// Device of the executable as `stat` encodes it in the kernel (`MKDEV`: 12 bits major, 20 minor).
    pub device: u32,
    /// Process (thread group).
    pub pid: u32,
    /// Its parent's.
    pub parent_pid: u32,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// The user who logged in, or `u32::MAX` without a login.
    pub login_uid: u32,
    /// Audit session, or `u32::MAX`.
    pub session_id: u32,
    /// `EXEC_*` bits.
    pub flags: u32,
    /// Length of the path without a NUL.
    pub path_len: u32,
    /// Length of the script's path without a NUL; 0 if the executable is no interpreter of one.
    pub script_len: u32,
    /// The identity that an executable selector gives it, or inherited, or [`AgentId::NONE`].
    pub identity: AgentId,
    /// Zero.
    pub reserved: u32,
    /// Path of the executable.
    pub path: [u8; PATH_BYTES],
    /// Path of the script as the caller named it, made absolute.
    pub script: [u8; PATH_BYTES],
}

// As in `audit.rs`.
const _: () = {
    assert!(size_of::<ProcessLabel>() == 40);
    assert!(size_of::<ExecEvent>() == 96 + 2 * PATH_BYTES);
    assert!(core::mem::offset_of!(ExecEvent, path) == 96);
};
