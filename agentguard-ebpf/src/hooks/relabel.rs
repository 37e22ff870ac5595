//! Relabelling: hands out to running processes what a new generation makes of their executables.
//!
//! The daemon finds that for each exec; this walks over all tasks and writes it where the exec is
//! still the same, so that a process that starts another program meanwhile keeps what that gave it.
//!
//! # Minimum kernel version
//!
//! 5.8 for `iter/task`.

use core::ffi::c_void;

use crate::{
    layout::{self, read_at},
    process,
};

/// Arguments of `iter/task` (`struct bpf_iter__task`).
#[repr(C)]
struct Task {
    meta: *mut c_void,
    task: *const u8,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn relabel(context: *const Task) -> i32 {
    // SAFETY: the context of the running program.
    let task = unsafe { (*context).task };
    // It is null once, at the end of the walk.
    if !task.is_null() {
        process::relabel(read_at(task, &layout::TASK_TGID));
    }
    0
}
