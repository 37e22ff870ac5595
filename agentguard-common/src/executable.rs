//! Which executables a policy means: one automaton for all its globs, run over the bytes of a path.
//!
//! Its cost is that of the path's length, however many globs there are. State 0 is the dead end; a
//! transition that is not in the table leads there.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A file that is known by its hash, in one generation slot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FileKey {
    /// Inode number.
    pub inode: u64,
    /// Device as the kernel encodes it: 12 bits major, 20 bits minor.
    pub device: u32,
    /// 0 or 1: the low bit of the generation.
    pub slot: u32,
}

/// What the hash of a file says, as long as the file has not changed since it was hashed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct HashedFile {
    /// Facts that hold for who runs it.
    pub facts: u64,
    /// When its inode changed last, as the daemon saw it before it read the first byte: seconds.
    pub changed_s: u64,
    /// And nanoseconds.
    pub changed_ns: u64,
}

/// The state at the start of a path.
pub const START: u32 = 1;

/// The class that stands for the end of a path instead of a byte: where its transition leads is no
/// state but the number of an [`crate::fact::ExecutableSet`].
pub const END: u8 = 0xff;

/// States that one automaton can have: they take 24 bits of a key.
pub const MAX_STATES: u32 = 1 << 24;

/// Number of no set: the path matches nothing.
pub const NO_SET: u32 = 0;

/// Key of the transition from `state` at a byte of `class`.
#[inline(always)]
#[must_use]
pub const fn transition(state: u32, class: u8) -> u32 {
    state << 8 | class as u32
}

/// Number of the set that `path` matches, or [`NO_SET`]. `class` gives the class of a byte, `next`
/// what the table holds at a key.
#[inline(always)]
pub fn find_set(path: &[u8], class: impl Fn(u8) -> u8, next: impl Fn(u32) -> Option<u32>) -> u32 {
    let mut state = START;
    for &byte in path {
        match next(transition(state, class(byte))) {
            Some(following) => state = following,
            None => return NO_SET,
        }
    }
    next(transition(state, END)).unwrap_or(NO_SET)
}

// As in `audit.rs`.
const _: () = {
    assert!(size_of::<FileKey>() == 16);
    assert!(size_of::<HashedFile>() == 24);
};
