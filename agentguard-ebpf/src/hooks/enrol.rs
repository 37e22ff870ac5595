//! Enrolment: tags and counts the sockets that tasks hold already, when the daemon starts and when a cgroup or a
//! task moves under another identity.
//!
//! # Minimum kernel version
//!
//! 5.11 for socket storage from `iter/task_file`.

use core::ffi::c_void;

use agentguard_common::{
    capacity::MAX_CGROUP_DEPTH,
    identity::{AgentId, FLAG_RESTRICTED},
};
use aya_ebpf::{
    btf_maps::Array,
    helpers::{bpf_probe_read_kernel, generated::bpf_sock_from_file},
    macros::btf_map,
};

use crate::{
    atomic, identity, layout, limit,
    policy::{self, Active},
    tag,
};

/// Sockets seen, and sockets that got another tag, since the programs were loaded.
#[btf_map]
static ENROLLED: Array<u64, 2> = Array::new();

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Arguments of `iter/task_file` (`struct bpf_iter__task_file`).
#[repr(C)]
struct TaskFile {
    meta: *mut c_void,
    task: *const u8,
    descriptor: u32,
    padding: u32,
    file: *mut c_void,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn enrol(context: *const TaskFile) -> i32 {
    // SAFETY: the context of the running program.
    let (task, file) = unsafe { ((*context).task, (*context).file) };
    // Both are null once, at the end of the walk.
    if task.is_null() || file.is_null() {
        return 0;
    }
    let Some(active) = policy::active() else {
        return 0;
    };
    // SAFETY: the helper takes any file; the verifier checks the offsets against the kernel's types.
    let socket = unsafe {
        let socket = bpf_sock_from_file(file.cast()).cast::<u8>();
        if socket.is_null() {
            return 0;
        }
        layout::pointer_at(socket, &layout::SOCKET_SK)
    };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let family = unsafe {
        *socket
            .add(layout::SOCK_FAMILY.load() as usize)
            .cast::<u16>()
    };
    if family != AF_INET && family != AF_INET6 {
        return 0;
    }
    count(0);
    // SAFETY: the task is live while the iterator shows it.
    let Some(holder) = (unsafe { owner_of(active, task) }) else {
        return 0;
    };
    let Some(tag) = tag::of_socket_or_new(socket.cast_mut().cast()) else {
        return 0;
    };
    let former = tag.identity;
    // Of several holders the restricted one has it.
    if former == AgentId::NONE || !active.record(former).has(FLAG_RESTRICTED) {
        tag.identity = holder;
    }
    if tag.identity != former {
        count(1);
    }
    // SAFETY: as above; the flags are aligned u64s of a live map value.
    unsafe {
        let state: u8 = layout::number_at(socket, &layout::SOCK_STATE);
        if has_peer(state)
            && atomic::load(&raw const tag.flow.open) == 0
            && atomic::load(&raw const tag.enrolled) == 0
            && is_judged(socket)
        {
            limit::hold(active.record(tag.identity).limiter, tag.held());
            atomic::exchange(&raw mut tag.enrolled, 1);
        }
    }
    0
}

/// Whether the programs run for a socket, and so see its end: they follow the cgroup that it was made
/// in, whoever holds it.
///
/// # Safety
///
/// `socket` is a live `struct sock`.
#[inline(always)]
unsafe fn is_judged(socket: *const u8) -> bool {
    if layout::SOCK_CGROUP.load() == layout::NOWHERE {
        return false;
    }
    // SAFETY: the verifier checks these against the kernel's types.
    let mut node = unsafe {
        let cgroup = layout::pointer_at(socket, &layout::SOCK_CGROUP);
        if cgroup.is_null() {
            return false;
        }
        layout::pointer_at(cgroup, &layout::CGROUP_KN)
    };
    for _ in 0..MAX_CGROUP_DEPTH {
        if node.is_null() {
            return false;
        }
        if layout::read_at::<u64>(node, &layout::KN_ID) == layout::ATTACHED_CGROUP.load() {
            return true;
        }
        node = layout::follow(node, &layout::KN_PARENT);
    }
    false
}

/// Whether a socket in this state has somebody at the other end. The states of TCP are those of all
/// sockets (`include/net/tcp_states.h`); others are established or closed.
const fn has_peer(state: u8) -> bool {
    const SYN_RECV: u8 = 3;
    const TIME_WAIT: u8 = 6;
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
    const NEW_SYN_RECV: u8 = 12;
    !matches!(state, SYN_RECV | TIME_WAIT | CLOSE | LISTEN | NEW_SYN_RECV)
}

/// Whom a task belongs to. `None` while it exits.
///
/// # Safety
///
/// `task` is a live `struct task_struct`.
#[inline(always)]
unsafe fn owner_of(active: Active, task: *const u8) -> Option<AgentId> {
    // SAFETY: the verifier checks these against the kernel's types.
    let mut node = unsafe {
        let set = layout::pointer_at(task, &layout::TASK_CGROUPS);
        if set.is_null() {
            return None;
        }
        let cgroup = layout::pointer_at(set, &layout::CSS_SET_DFL_CGRP);
        if cgroup.is_null() {
            return None;
        }
        layout::pointer_at(cgroup, &layout::CGROUP_KN)
    };
    for _ in 0..MAX_CGROUP_DEPTH {
        if node.is_null() {
            break;
        }
        // SAFETY: the helper fails softly on a bad address; parents outlive their children.
        unsafe {
            let id: u64 =
                bpf_probe_read_kernel(node.add(layout::KN_ID.load() as usize).cast()).ok()?;
            if let Some(label) = identity::label_of(active, id) {
                return Some(identity::of_task(active, &label, task).identity);
            }
            node =
                bpf_probe_read_kernel(node.add(layout::KN_PARENT.load() as usize).cast()).ok()?;
        }
    }
    Some(identity::of_task(active, &identity::of_rest(active), task).identity)
}

#[inline(always)]
fn count(which: u32) {
    if let Some(counter) = ENROLLED.get_ptr_mut(which) {
        // SAFETY: an aligned u64 of a live map value.
        unsafe { atomic::add(counter, 1) };
    }
}
