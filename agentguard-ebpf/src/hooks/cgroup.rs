//! Cgroups that come, go and gain tasks: the daemon labels them as they appear.
//!
//! # Minimum kernel version
//!
//! 5.5 for `tp_btf`.

use agentguard_common::{
    capacity::CGROUP_RING_BYTES,
    cgroup::{CGROUP_PATH_BYTES, CgroupEvent, CgroupEventKind},
};
use aya_ebpf::{
    btf_maps::RingBuf,
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

use crate::layout;

/// Cgroup events on their way to the daemon, the only reader. One that does not fit is lost: the
/// cgroup is judged as its nearest labelled ancestor until the next scan.
#[btf_map]
static CGROUP_EVENTS: RingBuf<CgroupEvent, { CGROUP_RING_BYTES as usize }> = RingBuf::new();

#[btf_tracepoint(function = "cgroup_mkdir")]
fn cgroup_mkdir(context: BtfTracePointContext) -> i32 {
    tell(context.arg(0), context.arg(1), CgroupEventKind::Created)
}

#[btf_tracepoint(function = "cgroup_rmdir")]
fn cgroup_rmdir(context: BtfTracePointContext) -> i32 {
    tell(context.arg(0), context.arg(1), CgroupEventKind::Removed)
}

#[btf_tracepoint(function = "cgroup_attach_task")]
fn cgroup_attach_task(context: BtfTracePointContext) -> i32 {
    tell(
        context.arg(0),
        context.arg(1),
        CgroupEventKind::TaskAttached,
    )
}

#[inline(always)]
fn tell(cgroup: *const u8, path: *const u8, kind: CgroupEventKind) -> i32 {
    // SAFETY: the first argument of these tracepoints is a live `struct cgroup`; the verifier checks
    // the offsets against the kernel's types.
    let (hierarchy, cgroup_id) = unsafe {
        let root = layout::pointer_at(cgroup, &layout::CGROUP_ROOT);
        let node = layout::pointer_at(cgroup, &layout::CGROUP_KN);
        (
            *root
                .add(layout::ROOT_HIERARCHY_ID.load() as usize)
                .cast::<i32>(),
            *node.add(layout::KN_ID.load() as usize).cast::<u64>(),
        )
    };
    // The cgroup v2 hierarchy is number 0 (`cgroup_init` makes it first); others are v1.
    if hierarchy != 0 {
        return 0;
    }
    let Some(mut entry) = CGROUP_EVENTS.reserve(0) else {
        return 0;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: a whole reserved record; every field is written, and the helper bounds the path.
    unsafe {
        (*event).cgroup_id = cgroup_id;
        (*event).kind = kind;
        (*event).reserved = [0; 3];
        let length = bpf_probe_read_kernel_str(
            (&raw mut (*event).path).cast(),
            CGROUP_PATH_BYTES as u32,
            path.cast(),
        );
        (*event).path_len = if length > 0 { length as u32 } else { 0 };
    }
    entry.submit(0);
    0
}
