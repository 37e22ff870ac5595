//! Where the running kernel keeps the few fields that no helper gives: byte offsets that the loader
//! reads from the kernel's BTF and writes here before the programs load.
//!
//! The section is frozen, so the verifier knows each offset as a constant and checks the access
//! against the real type.

use core::mem::MaybeUninit;

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};

/// Numbers: whatever bits are read, they are one.
pub trait Number: Copy {}
impl Number for u8 {}
impl Number for u32 {}
impl Number for i32 {}
impl Number for u64 {}

/// `cgroup.kn`.
#[unsafe(no_mangle)]
pub static CGROUP_KN: Global<u64> = Global::new(0);
/// `cgroup.root`.
#[unsafe(no_mangle)]
pub static CGROUP_ROOT: Global<u64> = Global::new(0);
/// `cgroup_root.hierarchy_id`.
#[unsafe(no_mangle)]
pub static ROOT_HIERARCHY_ID: Global<u64> = Global::new(0);
/// `kernfs_node.id`.
#[unsafe(no_mangle)]
pub static KN_ID: Global<u64> = Global::new(0);
/// `kernfs_node.parent`, `__parent` since Linux 6.15.
#[unsafe(no_mangle)]
pub static KN_PARENT: Global<u64> = Global::new(0);
/// `task_struct.cgroups`.
#[unsafe(no_mangle)]
pub static TASK_CGROUPS: Global<u64> = Global::new(0);
/// `css_set.dfl_cgrp`.
#[unsafe(no_mangle)]
pub static CSS_SET_DFL_CGRP: Global<u64> = Global::new(0);
/// `socket.sk`.
#[unsafe(no_mangle)]
pub static SOCKET_SK: Global<u64> = Global::new(0);
/// `sock.__sk_common.skc_family`.
#[unsafe(no_mangle)]
pub static SOCK_FAMILY: Global<u64> = Global::new(0);
/// `sock.__sk_common.skc_state`.
#[unsafe(no_mangle)]
pub static SOCK_STATE: Global<u64> = Global::new(0);
/// `sock.sk_cgrp_data.cgroup`, or [`NOWHERE`] where the cgroup is kept in another form (before Linux
/// 5.17, commit 8520e224f547).
#[unsafe(no_mangle)]
pub static SOCK_CGROUP: Global<u64> = Global::new(0);
/// Id of the cgroup that the programs are attached to.
#[unsafe(no_mangle)]
pub static ATTACHED_CGROUP: Global<u64> = Global::new(0);
/// 1 if the kernel has `bpf_set_retval` (Linux 5.18).
#[unsafe(no_mangle)]
pub static HAS_SET_RETVAL: Global<u64> = Global::new(0);

/// The offset of what the kernel does not have.
pub const NOWHERE: u64 = u64::MAX;

/// The pointer at `offset` below `base`.
///
/// # Safety
///
/// `base` is a pointer that the verifier knows the type of, and `offset` one of the above for it.
#[inline(always)]
pub unsafe fn pointer_at(base: *const u8, offset: &Global<u64>) -> *const u8 {
    // SAFETY: the verifier checks the access against the type in the kernel's BTF.
    unsafe { *base.add(offset.load() as usize).cast::<*const u8>() }
}

/// The number at `offset` below `base`.
///
/// # Safety
///
/// As [`pointer_at`].
#[inline(always)]
pub unsafe fn number_at<T: Number>(base: *const u8, offset: &Global<u64>) -> T {
    // SAFETY: the verifier checks the access against the type in the kernel's BTF.
    unsafe { *base.add(offset.load() as usize).cast::<T>() }
}

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            pub static $name: Global<u64> = Global::new(0);
        )*
    };
}

offsets! {
    /// `task_struct.tgid`.
    TASK_TGID;
    /// `task_struct.group_leader`.
    TASK_LEADER;
    /// `task_struct.start_boottime` (Linux 5.5).
    TASK_STARTED;
    /// `task_struct.real_parent`.
    TASK_PARENT;
    /// `task_struct.comm`.
    TASK_COMM;
    /// `task_struct.loginuid`.
    TASK_LOGIN_UID;
    /// `task_struct.sessionid`.
    TASK_SESSION_ID;
    /// `task_struct.real_cred`.
    TASK_CRED;
    /// `cred.uid`.
    CRED_UID;
    /// `cred.gid`.
    CRED_GID;
    /// `task_struct.signal`.
    TASK_SIGNAL;
    /// `signal_struct.live`.
    SIGNAL_LIVE;
    /// `task_struct.fs`.
    TASK_FS;
    /// `fs_struct.pwd`.
    FS_PWD;
    /// `fs_struct.root`.
    FS_ROOT;
    /// `task_struct.nsproxy`.
    TASK_NSPROXY;
    /// `nsproxy.mnt_ns`.
    NSPROXY_MNT_NS;
    /// `mnt_namespace.user_ns`.
    MNT_NS_USER_NS;
    /// `user_namespace.level`.
    USER_NS_LEVEL;
    /// `linux_binprm.file`.
    BINPRM_FILE;
    /// `linux_binprm.filename`.
    BINPRM_FILENAME;
    /// `linux_binprm.interp`.
    BINPRM_INTERP;
    /// `file.f_path`.
    FILE_PATH;
    /// `file.f_inode`.
    FILE_INODE;
    /// `path.mnt`.
    PATH_MNT;
    /// `path.dentry`.
    PATH_DENTRY;
    /// `dentry.d_parent`.
    DENTRY_PARENT;
    /// `dentry.d_name.len`.
    DENTRY_NAME_LEN;
    /// `dentry.d_name.name`.
    DENTRY_NAME;
    /// `dentry.d_inode`.
    DENTRY_INODE;
    /// `mount.mnt`: what a `struct vfsmount` pointer points into.
    MOUNT_MNT;
    /// `mount.mnt_parent`.
    MOUNT_PARENT;
    /// `mount.mnt_mountpoint`.
    MOUNT_POINT;
    /// `vfsmount.mnt_root`.
    VFSMOUNT_ROOT;
    /// `vfsmount.mnt_sb`.
    VFSMOUNT_SB;
    /// `super_block.s_dev`.
    SB_DEV;
    /// `inode.i_ino`.
    INODE_NUMBER;
    /// `inode.i_sb`.
    INODE_SB;
    /// Seconds of the inode's change time.
    INODE_CHANGED_S;
    /// Nanoseconds of the inode's change time.
    INODE_CHANGED_NS;
    /// Device of the root that the daemon sees, as the kernel encodes it.
    HOST_ROOT_DEVICE;
    /// Inode number of that root.
    HOST_ROOT_INODE;
}

/// What stands at `offset` below `base`, read softly: zero if it cannot be.
///
/// For what the verifier has no type of: mounts are found from the middle of their structure, and
/// helpers return plain addresses.
#[inline(always)]
pub fn read_at<T: Number>(base: *const u8, offset: &Global<u64>) -> T {
    let address = base.wrapping_add(offset.load() as usize);
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address. Where it cannot be read it writes zeros
    // (`bpf_probe_read_kernel_common`), so there is no need to ask, and one way less for the verifier.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address.cast(),
        );
        value.assume_init()
    }
}

/// The pointer that stands there; null if it cannot be read.
#[inline(always)]
pub fn follow(base: *const u8, offset: &Global<u64>) -> *const u8 {
    read_at::<u64>(base, offset) as *const u8
}
