//! Paths of files, put together from the names of their directories.
//!
//! `bpf_d_path` is for few programs only, so the walk that the kernel does is done here: from name to
//! parent, at the root of a mount on to where that is mounted, until there is nothing above.

use core::arch::asm;

use agentguard_common::{
    executable::{Plainness, Walk},
    process::PATH_BYTES,
};
use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str},
    macros::btf_map,
};

use crate::layout::{self, follow, read_at};

/// Names and mounts that are walked through; what lies deeper has no path.
const MAX_STEPS: u32 = 64;

/// The longest name of one file (`NAME_MAX`).
const NAME_BYTES: usize = 255;

/// Room for a path that grows towards its front, and as much again behind it: so a bound on where a
/// name starts is a bound on where it ends.
#[repr(C)]
pub struct Buffer {
    bytes: [u8; 2 * PATH_BYTES],
    cursor: Cursor,
    /// 1 if the path begins at the root that the daemon sees.
    is_of_host: u32,
    /// The finished path, NUL terminated: from its first byte on, so that where it starts is no number
    /// for the verifier to reckon with.
    text: [u8; PATH_BYTES],
    plain: Plainness,
    /// How far `executable.rs` has read it.
    pub walk: Walk,
}

/// How far a path has been written. It is kept in the map, of whose contents the verifier knows
/// nothing, so that all ways through one turn of the walk look the same to it in the next.
#[derive(Clone, Copy)]
#[repr(C)]
struct Cursor {
    dentry: *const u8,
    mount: *const u8,
    /// Where the path starts so far.
    start: u64,
}

/// Where a step of the walk has led.
enum Step {
    On,
    /// To the root that the daemon sees.
    HostRoot,
    /// To a mount that has nothing above it.
    Top,
}

/// The buffers. Tracepoints run with preemption off (`__DO_TRACE`), so nothing else uses a CPU's
/// meanwhile.
#[btf_map]
static PATHS: PerCpuArray<Buffer, 2> = PerCpuArray::new();

/// The buffer of the path of an executable.
pub const EXECUTABLE: u32 = 0;
/// The buffer of the path of a script.
pub const SCRIPT: u32 = 1;

/// One of the buffers. Whoever calls a function that works on it must not hold it meanwhile: the
/// compiler takes it to be his alone.
#[inline(always)]
pub fn buffer<'a>(which: u32) -> Option<&'a mut Buffer> {
    // SAFETY: this CPU's own.
    PATHS
        .get_ptr_mut(which)
        .map(|buffer| unsafe { &mut *buffer })
}

/// Writes the path that was begun and finishes it; returns its length, 0 if it is too long or too deep.
///
/// A global function: the verifier looks at it once, and not anew for each way that leads to a call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_up(which: u32) -> u32 {
    let Some(buffer) = buffer(which) else {
        return 0;
    };
    buffer.is_of_host = 0;
    for _ in 0..MAX_STEPS {
        match buffer.go_up() {
            Some(Step::On) => {}
            Some(Step::HostRoot) => {
                buffer.is_of_host = 1;
                return buffer.finish_walk().unwrap_or(0);
            }
            Some(Step::Top) => return buffer.finish_walk().unwrap_or(0),
            None => return 0,
        }
    }
    0
}

/// 1 if the finished path leads where it says. A global function, as [`walk_up`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn check_plain(which: u32) -> u32 {
    buffer(which).is_some_and(|buffer| buffer.is_plain()).into()
}

/// Writes the path of `dentry` on `vfsmount` before `end`, and finishes it; returns its length, 0 if
/// it is too long or too deep.
#[inline(always)]
pub fn write(which: u32, end: usize, vfsmount: *const u8, dentry: *const u8) -> u32 {
    match buffer(which) {
        Some(buffer) => buffer.begin(end, vfsmount, dentry),
        None => return 0,
    }
    walk_up(which)
}

/// Whether the path that was written last leads to the root that the daemon sees, and not to that of a
/// container.
#[inline(always)]
pub fn is_below_host_root(which: u32) -> bool {
    let Some(buffer) = buffer(which) else {
        return false;
    };
    // SAFETY: this CPU's own; another function has written it.
    unsafe { (&raw const buffer.is_of_host).read_volatile() == 1 }
}

/// See [`check_plain`].
#[inline(always)]
pub fn is_plain(which: u32) -> bool {
    check_plain(which) == 1
}

impl Buffer {
    /// Starts on the path of `dentry` on `vfsmount`, to be written before `end` by [`walk_up`].
    #[inline(always)]
    fn begin(&mut self, end: usize, vfsmount: *const u8, dentry: *const u8) {
        self.cursor = Cursor {
            dentry,
            mount: mount_of(vfsmount),
            start: end as u64,
        };
    }

    /// Goes on one name or mount. `None` if the path is too long.
    #[inline(always)]
    fn go_up(&mut self) -> Option<Step> {
        let cursor = &raw mut self.cursor;
        // SAFETY: this CPU's own.
        let at = unsafe { cursor.read_volatile() };
        let start = at.start as usize;
        let parent = follow(at.dentry, &layout::DENTRY_PARENT);
        let next = if at.dentry == mount_root(at.mount) || at.dentry == parent {
            // Where the daemon's own paths begin. There may be more above it: the first file system of
            // the kernel lies below every other, and nobody sees it.
            if is_host_root(vfsmount_of(at.mount), mount_root(at.mount)) {
                return Some(Step::HostRoot);
            }
            let above = follow(at.mount, &layout::MOUNT_PARENT);
            if above == at.mount || above.is_null() {
                return Some(Step::Top);
            }
            Cursor {
                dentry: follow(at.mount, &layout::MOUNT_POINT),
                mount: above,
                ..at
            }
        } else {
            Cursor {
                dentry: parent,
                start: self.prepend(start, at.dentry)? as u64,
                ..at
            }
        };
        // SAFETY: as above.
        unsafe { cursor.write_volatile(next) };
        Some(Step::On)
    }

    /// Writes a slash and the name of `dentry` before `start`.
    #[inline(always)]
    fn prepend(&mut self, start: usize, dentry: *const u8) -> Option<usize> {
        let length = read_at::<u32>(dentry, &layout::DENTRY_NAME_LEN) as usize;
        let name = follow(dentry, &layout::DENTRY_NAME);
        if length == 0 || length > NAME_BYTES || length >= start || start > PATH_BYTES {
            return None;
        }
        let start = start - length;
        self.copy(start, name, length)?;
        self.prepend_slash(start)
    }

    /// Writes `length` bytes from `source` at `start`.
    #[inline(always)]
    pub fn copy(&mut self, start: usize, source: *const u8, length: usize) -> Option<()> {
        // SAFETY: `start` and `length` are below `PATH_BYTES`, half of the buffer; the helper fails
        // softly.
        let failed = unsafe {
            bpf_probe_read_kernel(
                self.bytes.as_mut_ptr().add(bounded(start)).cast(),
                bounded(length) as u32,
                source.cast(),
            )
        };
        (failed == 0).then_some(())
    }

    #[inline(always)]
    pub fn prepend_slash(&mut self, start: usize) -> Option<usize> {
        let start = start.checked_sub(1)?;
        // SAFETY: bounded within the buffer.
        unsafe { *self.bytes.as_mut_ptr().add(bounded(start)) = b'/' };
        Some(start)
    }

    /// Writes a name that a caller gave, with a slash before it; says where it starts and whether it is
    /// relative. A leading `./` is left out. `None` if it is too long.
    #[inline(always)]
    pub fn write_name(&mut self, name: *const u8) -> Option<(usize, bool)> {
        let text = self.text.as_mut_ptr();
        // SAFETY: the text holds that many bytes; the helper fails softly.
        let length =
            unsafe { bpf_probe_read_kernel_str(text.cast(), PATH_BYTES as u32, name.cast()) };
        // With its NUL; a name that fills the buffer may be cut.
        if length < 2 || length >= PATH_BYTES as i64 {
            return None;
        }
        let mut length = length as usize - 1;
        let [first, second, ..] = self.text;
        let skipped = if first == b'.' && second == b'/' {
            2
        } else {
            0
        };
        length = length.checked_sub(skipped).filter(|&length| length > 0)?;
        let start = PATH_BYTES - bounded(length);
        self.copy(start, text.wrapping_add(skipped), length)?;
        if first == b'/' {
            return Some((start, false));
        }
        Some((self.prepend_slash(start)?, true))
    }

    /// Takes what the walk has written as the finished path.
    #[inline(always)]
    fn finish_walk(&mut self) -> Option<u32> {
        // SAFETY: this CPU's own.
        let start = unsafe { (&raw const self.cursor.start).read_volatile() } as usize;
        let start = match start {
            PATH_BYTES => self.prepend_slash(start)?,
            _ => start,
        };
        self.finish(start)
    }

    /// Takes what starts at `start` as the finished path; returns its length.
    #[inline(always)]
    pub fn finish(&mut self, start: usize) -> Option<u32> {
        let start = bounded(start);
        let length = bounded(PATH_BYTES - start);
        // SAFETY: bounded within both; the source is map memory.
        unsafe {
            bpf_probe_read_kernel(
                self.text.as_mut_ptr().cast(),
                length as u32,
                self.bytes.as_ptr().add(start).cast(),
            );
            *self.text.as_mut_ptr().add(length) = 0;
        }
        // A path that fills the buffer has no room for its NUL.
        (length > 0).then_some(length as u32)
    }

    /// The byte of the finished path at `index`; 0 behind it.
    #[inline(always)]
    pub fn byte(&self, index: usize) -> u8 {
        // SAFETY: bounded within the text.
        unsafe { *self.text.as_ptr().add(bounded(index)) }
    }

    /// Whether the finished path leads where it says.
    #[inline(always)]
    fn is_plain(&mut self) -> bool {
        let plain = &raw mut self.plain;
        // SAFETY: this CPU's own.
        unsafe { plain.write_volatile(Plainness::default()) };
        for index in 0..PATH_BYTES {
            let byte = self.byte(index);
            if byte == 0 {
                break;
            }
            // SAFETY: as above.
            unsafe {
                match plain.read_volatile().step(byte) {
                    Some(further) => plain.write_volatile(further),
                    None => return false,
                }
            }
        }
        // SAFETY: as above.
        unsafe { plain.read_volatile() }.finish()
    }

    /// The finished path.
    #[inline(always)]
    pub const fn text(&self) -> *const u8 {
        self.text.as_ptr()
    }
}

/// `index` below [`PATH_BYTES`], with the mask spelled out: the compiler drops one that it can prove to
/// be needless, and the verifier cannot follow the proof.
#[inline(always)]
pub fn bounded(index: usize) -> usize {
    let mut index = index as u64;
    // SAFETY: changes its operand only.
    unsafe {
        asm!("{index} &= 511", index = inout(reg) index, options(pure, nomem, nostack));
    }
    index as usize
}

const _: () = assert!(PATH_BYTES == 512);

#[inline(always)]
fn mount_of(vfsmount: *const u8) -> *const u8 {
    vfsmount.wrapping_sub(layout::MOUNT_MNT.load() as usize)
}

/// The directory that a mount shows at its root.
#[inline(always)]
fn mount_root(mount: *const u8) -> *const u8 {
    follow(vfsmount_of(mount), &layout::VFSMOUNT_ROOT)
}

#[inline(always)]
fn vfsmount_of(mount: *const u8) -> *const u8 {
    mount.wrapping_add(layout::MOUNT_MNT.load() as usize)
}

/// Whether `dentry` on `vfsmount` is the root that the daemon sees.
#[inline(always)]
pub fn is_host_root(vfsmount: *const u8, dentry: *const u8) -> bool {
    let inode = follow(dentry, &layout::DENTRY_INODE);
    let sb = follow(vfsmount, &layout::VFSMOUNT_SB);
    u64::from(read_at::<u32>(sb, &layout::SB_DEV)) == layout::HOST_ROOT_DEVICE.load()
        && read_at::<u64>(inode, &layout::INODE_NUMBER) == layout::HOST_ROOT_INODE.load()
}
