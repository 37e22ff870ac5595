//! Where the running kernel keeps the few fields that no helper gives: byte offsets that the loader
//! reads from the kernel's BTF and writes here before the programs load.
//!
//! The section is frozen, so the verifier knows each offset as a constant and checks the access
//! against the real type.

use aya_ebpf::Global;

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
/// 1 if the kernel has `bpf_set_retval` (Linux 5.18).
#[unsafe(no_mangle)]
pub static HAS_SET_RETVAL: Global<u64> = Global::new(0);

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
