//! What policy says of an executable: its path through the automaton, and its hash.

use agentguard_common::{
    capacity::{MAX_EXECUTABLE_SETS, MAX_HASHED_FILES},
    executable::{FileKey, HashedFile, NO_SET, Walk},
    fact::ExecutableSet,
    process::PATH_BYTES,
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, HashMap},
    macros::btf_map,
};

use crate::{
    layout::{self, follow, read_at},
    path,
    policy::Active,
};

/// Class of each byte.
#[repr(transparent)]
pub struct ByteClasses([u8; 256]);

/// Transition → state or set, by slot. The daemon puts a new map in the idle slot.
#[btf_map]
static TRANSITIONS: ArrayOfMaps<HashMap<u32, u32, 1>, 2> = ArrayOfMaps::new();

/// Byte → class, by slot. The daemon writes the idle slot.
#[btf_map]
static BYTE_CLASSES: Array<ByteClasses, 2> = Array::new();

/// Sets: all of slot 0, then all of slot 1. The daemon writes the idle slot.
#[btf_map]
static EXECUTABLE_SETS: Array<ExecutableSet, { 2 * MAX_EXECUTABLE_SETS as usize }> = Array::new();

/// Files known by their hash, for both slots. Only the daemon writes it.
#[btf_map]
static HASHED_FILES: HashMap<
    FileKey,
    HashedFile,
    { MAX_HASHED_FILES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Number of the set that the finished path in a buffer matches, or [`NO_SET`].
#[inline(always)]
pub fn find(active: Active, which: u32) -> u32 {
    match_path(active.slot(), which)
}

/// A global function, as [`path::write`] is. How far it is stands in the map: the verifier knows
/// nothing of what is read from there, so that all turns of the loop look the same to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn match_path(slot: u32, which: u32) -> u32 {
    let (Some(classes), Some(transitions), Some(buffer)) = (
        BYTE_CLASSES.get(slot),
        TRANSITIONS.get(slot),
        path::buffer(which),
    ) else {
        return NO_SET;
    };
    let walk = &raw mut buffer.walk;
    // SAFETY: a byte is a valid index; `get` would leave a panic path in the program.
    let class = |byte: u8| unsafe { *classes.0.get_unchecked(usize::from(byte)) };
    // SAFETY: the map is never written after it is put in its slot.
    let next = |key: u32| unsafe { transitions.get(key) }.copied();
    // SAFETY: `walk` is this CPU's own.
    unsafe { walk.write_volatile(Walk::default()) };
    for index in 0..PATH_BYTES {
        let byte = buffer.byte(index);
        if byte == 0 {
            break;
        }
        // SAFETY: as above.
        unsafe {
            match walk.read_volatile().step(class(byte), next) {
                Some(further) => walk.write_volatile(further),
                None => return NO_SET,
            }
        }
    }
    // SAFETY: as above.
    unsafe { walk.read_volatile() }.finish(next)
}

/// What policy says of a set; nothing of [`NO_SET`].
#[inline(always)]
pub fn set(active: Active, number: u32) -> ExecutableSet {
    if number == NO_SET || number >= MAX_EXECUTABLE_SETS {
        return ExecutableSet::default();
    }
    EXECUTABLE_SETS
        .get(active.slot() * MAX_EXECUTABLE_SETS + number)
        .copied()
        .unwrap_or_default()
}

/// Where a file is: its device and inode.
#[inline(always)]
pub fn place_of(inode: *const u8) -> (u32, u64) {
    let sb = follow(inode, &layout::INODE_SB);
    (
        read_at(sb, &layout::SB_DEV),
        read_at(inode, &layout::INODE_NUMBER),
    )
}

/// Facts that the hash of a file gives, if it has not changed since the daemon read it.
#[inline(always)]
pub fn hash_facts(active: Active, inode: *const u8) -> u64 {
    let (device, number) = place_of(inode);
    let key = FileKey {
        inode: number,
        device,
        slot: active.slot(),
    };
    // SAFETY: values are replaced whole.
    let Some(file) = (unsafe { HASHED_FILES.get(key) }) else {
        return 0;
    };
    let changed_s: u64 = read_at(inode, &layout::INODE_CHANGED_S);
    // The upper bit says that somebody asked for the time (Linux 6.13, commit 4e40eff0b573).
    let changed_ns = read_at::<u32>(inode, &layout::INODE_CHANGED_NS) & 0x7fff_ffff;
    if file.changed_s == changed_s && file.changed_ns == u64::from(changed_ns) {
        file.facts
    } else {
        0
    }
}
