//! Paths of files, put together from the names of their directories.
//!
//! `bpf_d_path` is for few programs only, so the walk that the kernel does is done here: from name to
//! parent, at the root of a mount on to where that is mounted, until there is nothing above.

use core::arch::asm;

use agentguard_common::process::PATH_BYTES;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

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

/// A path in a [`Buffer`].
#[derive(Clone, Copy)]
pub struct Written {
    /// Where it starts; it ends at [`PATH_BYTES`].
    pub start: usize,
    /// The mount that has nothing above it.
    pub top: *const u8,
}

impl Buffer {
    /// Writes the path of `dentry` on `vfsmount` before `end`. `None` if it is too long or too deep.
    #[inline(always)]
    pub fn write_path(
        &mut self,
        end: usize,
        vfsmount: *const u8,
        dentry: *const u8,
    ) -> Option<Written> {
        let cursor = &raw mut self.cursor;
        // SAFETY: this CPU's own, here and below.
        unsafe {
            cursor.write_volatile(Cursor {
                dentry,
                mount: mount_of(vfsmount),
                start: end as u64,
            });
        }
        for _ in 0..MAX_STEPS {
            let at = unsafe { cursor.read_volatile() };
            let start = at.start as usize;
            let parent = follow(at.dentry, &layout::DENTRY_PARENT);
            let next = if at.dentry == mount_root(at.mount) || at.dentry == parent {
                let above = follow(at.mount, &layout::MOUNT_PARENT);
                if above == at.mount || above.is_null() {
                    let start = if start == PATH_BYTES {
                        self.prepend_slash(start)?
                    } else {
                        start
                    };
                    return Some(Written {
                        start,
                        top: at.mount,
                    });
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
            unsafe { cursor.write_volatile(next) };
        }
        None
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

    /// The byte at `index`.
    #[inline(always)]
    pub fn byte(&self, index: usize) -> u8 {
        // SAFETY: bounded within the buffer.
        unsafe { *self.bytes.as_ptr().add(bounded(index)) }
    }

    /// Where the byte at `start` is.
    #[inline(always)]
    pub fn at(&self, start: usize) -> *const u8 {
        // SAFETY: bounded within the buffer.
        unsafe { self.bytes.as_ptr().add(bounded(start)) }
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

/// Whether a path that ends at the mount `top` is one of the host's own tree: below the root that the
/// daemon sees, not that of a container.
#[inline(always)]
pub fn is_below_host_root(top: *const u8) -> bool {
    let vfsmount = vfsmount_of(top);
    is_host_root(vfsmount, follow(vfsmount, &layout::VFSMOUNT_ROOT))
}
