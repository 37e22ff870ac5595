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

/// How far the automaton has read a path.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Walk {
    state: u32,
}

impl Default for Walk {
    #[inline(always)]
    fn default() -> Self {
        Self { state: START }
    }
}

impl Walk {
    /// Reads one more byte, of `class`; `None` if the path can match nothing any more. `next` gives what
    /// the table holds at a key.
    #[inline(always)]
    #[must_use]
    pub fn step(self, class: u8, next: impl FnOnce(u32) -> Option<u32>) -> Option<Self> {
        let state = next(transition(self.state, class))?;
        Some(Self { state })
    }

    /// Number of the set that the whole path matches, or [`NO_SET`].
    #[inline(always)]
    #[must_use]
    pub fn finish(self, next: impl FnOnce(u32) -> Option<u32>) -> u32 {
        next(transition(self.state, END)).unwrap_or(NO_SET)
    }
}

/// Looks for components of a path that make it lead elsewhere than it says: empty ones, `.` and `..`.
/// The paths of executables have none, those of scripts are as somebody wrote them.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Plainness {
    /// Dots that the component consists of so far; a name counts as [`NAME`].
    dots: u32,
}

/// More dots than any component has that is no name.
const NAME: u32 = 3;

impl Default for Plainness {
    #[inline(always)]
    fn default() -> Self {
        Self { dots: NAME }
    }
}

impl Plainness {
    /// Reads one more byte; `None` if the path is not plain.
    #[inline(always)]
    #[must_use]
    pub const fn step(self, byte: u8) -> Option<Self> {
        let dots = match byte {
            b'/' if self.dots < NAME => return None,
            b'/' => 0,
            b'.' if self.dots < NAME => self.dots + 1,
            _ => NAME,
        };
        Some(Self { dots })
    }

    /// Whether the whole path is plain.
    #[inline(always)]
    #[must_use]
    pub const fn finish(self) -> bool {
        self.dots >= NAME
    }
}

/// Whether a path leads where it says.
#[must_use]
pub fn is_plain(path: &[u8]) -> bool {
    path.iter()
        .try_fold(Plainness::default(), |plain, &byte| plain.step(byte))
        .is_some_and(Plainness::finish)
}

/// Number of the set that `path` matches, or [`NO_SET`]. `class` gives the class of a byte, `next`
/// what the table holds at a key. A path that is not plain matches nothing.
pub fn find_set(path: &[u8], class: impl Fn(u8) -> u8, next: impl Fn(u32) -> Option<u32>) -> u32 {
    if !is_plain(path) {
        return NO_SET;
    }
    path.iter()
        .try_fold(Walk::default(), |walk, &byte| walk.step(class(byte), &next))
        .map_or(NO_SET, |walk| walk.finish(&next))
}

// As in `audit.rs`.
const _: () = {
    assert!(size_of::<FileKey>() == 16);
    assert!(size_of::<HashedFile>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything is of class 0, and every state but the dead one leads to itself and accepts.
    fn find(path: &str) -> u32 {
        find_set(path.as_bytes(), |_| 0, |_| Some(START))
    }

    #[test]
    fn a_path_that_is_not_plain_matches_nothing() {
        for plain in ["/a", "/a/b.c/...d", "/.../x", "/.a/..b", "a/b"] {
            assert_eq!(find(plain), START, "{plain}");
        }
        for odd in [
            "/a//b", "/a/./b", "/a/../b", "/..", "/.", "/a/", "//a", "/", "/a/..",
        ] {
            assert_eq!(find(odd), NO_SET, "{odd}");
        }
    }
}
