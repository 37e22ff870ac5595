//! Processes that fork, start programs and end: what they carry follows them in the kernel, before
//! they run their first instruction.
//!
//! # Minimum kernel version
//!
//! 5.5 for `tp_btf`. An executable's path longer than [`PATH_BYTES`], or one behind more than 64
//! directories and mounts, matches no selector; nor does a script started through a descriptor.

use agentguard_common::{
    capacity::PROCESS_RING_BYTES,
    fact::{ExecutableSet, ON_HOST},
    identity::AgentId,
    process::{EXEC_ON_HOST, EXEC_PATH_CUT, ExecEvent, NO_EXEC, PATH_BYTES, ProcessLabel},
};
use aya_ebpf::{
    btf_maps::RingBuf,
    helpers::generated::{bpf_get_current_cgroup_id, bpf_probe_read_kernel},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

use crate::{
    clock, executable,
    fact::{self, User},
    identity,
    layout::{self, follow, read_at},
    path::{self, bounded},
    policy::{self, Active},
    process,
    task::Task,
};

/// Execs on their way to the daemon, the only reader.
#[btf_map]
static PROCESS_EVENTS: RingBuf<ExecEvent, { PROCESS_RING_BYTES as usize }> = RingBuf::new();

/// What is found of the paths of one exec.
#[derive(Clone, Copy)]
struct Paths {
    /// Length of the path of the executable, 0 if it has none.
    executable: u32,
    /// Length of that of the script.
    script: u32,
    /// Whether the path of the executable is one of the host's own tree.
    on_host: bool,
    /// Whether that of the script is.
    script_on_host: bool,
}

#[btf_tracepoint(function = "sched_process_fork")]
fn sched_process_fork(context: BtfTracePointContext) -> i32 {
    let (parent, child): (*const u8, *const u8) = (context.arg(0), context.arg(1));
    let (from, to): (u32, u32) = (
        read_at(parent, &layout::TASK_TGID),
        read_at(child, &layout::TASK_TGID),
    );
    // A thread shares the label of its process.
    if from != to
        && let Some(label) = process::label_of(from)
    {
        process::set_label(to, label);
        // A walk that hands out labels may have passed the child's place before it had one, and come to
        // its parent only later.
        process::relabel(to);
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
fn sched_process_exit(context: BtfTracePointContext) -> i32 {
    let task: *const u8 = context.arg(0);
    let signal = follow(task, &layout::TASK_SIGNAL);
    // The last thread takes the label with it. The pid is not free before this program ends.
    if read_at::<u32>(signal, &layout::SIGNAL_LIVE) == 0 {
        process::forget(read_at(task, &layout::TASK_TGID));
    }
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
fn sched_process_exec(context: BtfTracePointContext) -> i32 {
    let (task, binprm): (*const u8, *const u8) = (context.arg(0), context.arg(2));
    let file = follow(binprm, &layout::BINPRM_FILE);
    let paths = read_paths(task, binprm, file);
    let pid: u32 = read_at(task, &layout::TASK_TGID);
    let parent_pid: u32 = read_at(follow(task, &layout::TASK_PARENT), &layout::TASK_TGID);
    // What it takes over is what the policy in force makes of it.
    process::relabel(pid);
    process::relabel(parent_pid);
    let former = process::label_of(pid);
    let parent = process::label_of(parent_pid);
    let former_exec_id = former.map_or(NO_EXEC, |label| label.exec_id);
    let user = Task::current().user();
    let inode = follow(file, &layout::FILE_INODE);
    let mut label = ProcessLabel {
        exec_id: process::next_exec_id(),
        ..ProcessLabel::default()
    };
    if let Some(active) = policy::active() {
        label.generation = active.generation;
        if let Some(parent) = parent
            && parent.generation == active.generation
        {
            label.facts = parent.child_facts;
        }
        judge(active, &paths, inode, &user, &mut label);
    }
    if label.identity == AgentId::NONE {
        (label.identity, label.flags) = process::inherited(former);
    }
    process::set_label(pid, &label);
    let Some(mut entry) = PROCESS_EVENTS.reserve(0) else {
        process::count_lost_event();
        return 0;
    };
    let event = entry.as_mut_ptr();
    let (device, number) = executable::place_of(inode);
    // SAFETY: a whole reserved record, every field of which is written.
    unsafe {
        (*event).time_ns = clock::now_ns();
        (*event).exec_id = label.exec_id;
        (*event).former_exec_id = former_exec_id;
        (*event).parent_exec_id = parent.map_or(NO_EXEC, |label| label.exec_id);
        (*event).cgroup_id = bpf_get_current_cgroup_id();
        (*event).inode = number;
        (*event).device = device;
        (*event).pid = pid;
        (*event).parent_pid = parent_pid;
        (*event).uid = user.uid;
        (*event).gid = user.gid;
        (*event).login_uid = user.login_uid;
        (*event).session_id = read_at(task, &layout::TASK_SESSION_ID);
        (*event).identity = label.identity;
        (*event).reserved = 0;
        let mut flags = 0;
        if paths.on_host {
            flags |= EXEC_ON_HOST;
        }
        (*event).path_len = copy(&mut (*event).path, path::EXECUTABLE, paths.executable);
        if (*event).path_len == 0 {
            flags |= EXEC_PATH_CUT;
        }
        (*event).script_len = copy(&mut (*event).script, path::SCRIPT, paths.script);
        (*event).flags = flags;
    }
    entry.submit(0);
    0
}

/// Finds whom policy makes a process of what it runs, and the facts of that.
#[inline(always)]
fn judge(active: Active, paths: &Paths, inode: *const u8, user: &User, label: &mut ProcessLabel) {
    let find = |which, length| match length {
        0 => ExecutableSet::default(),
        _ => executable::set(active, executable::find(active, which)),
    };
    let executable = find(path::EXECUTABLE, paths.executable);
    let script = find(path::SCRIPT, paths.script);
    label.facts |= executable.own_facts | executable::hash_facts(active, inode);
    if paths.on_host {
        label.facts |= ON_HOST;
        // Whoever has mounts of his own can make himself the child of any path.
        label.child_facts = executable.parent_facts;
    }
    let around = user.facts(active) | identity::facts_of_current(active);
    // What the script is says more than what runs it.
    if paths.script > 0 {
        let host = if paths.script_on_host { ON_HOST } else { 0 };
        let facts = (label.facts | script.own_facts) & !ON_HOST | host | around;
        label.facts |= script.own_facts;
        if paths.script_on_host {
            label.child_facts |= script.parent_facts;
        }
        if let Some(choice) = fact::choose(active, script.choices, facts) {
            (label.identity, label.flags) = (choice.identity, choice.flags);
            return;
        }
    }
    if let Some(choice) = fact::choose(active, executable.choices, label.facts | around) {
        (label.identity, label.flags) = (choice.identity, choice.flags);
    }
}

/// Puts together the paths of what is being started.
#[inline(always)]
fn read_paths(task: *const u8, binprm: *const u8, file: *const u8) -> Paths {
    let file_path = file.wrapping_add(layout::FILE_PATH.load() as usize);
    let length = path::write(
        path::EXECUTABLE,
        PATH_BYTES,
        follow(file_path, &layout::PATH_MNT),
        follow(file_path, &layout::PATH_DENTRY),
    );
    let namespace = follow(follow(task, &layout::TASK_NSPROXY), &layout::NSPROXY_MNT_NS);
    let owner = follow(namespace, &layout::MNT_NS_USER_NS);
    let is_initial = read_at::<i32>(owner, &layout::USER_NS_LEVEL) == 0;
    let mut paths = Paths {
        executable: length,
        script: 0,
        on_host: is_initial && length > 0 && path::is_below_host_root(path::EXECUTABLE),
        script_on_host: false,
    };
    let name = follow(binprm, &layout::BINPRM_FILENAME);
    // The kernel names the interpreter of a script anew (`bprm_change_interp`).
    if follow(binprm, &layout::BINPRM_INTERP) != name {
        let fs = follow(task, &layout::TASK_FS);
        let root = fs.wrapping_add(layout::FS_ROOT.load() as usize);
        // The name is relative to the root of the task, which `chroot` moves.
        paths.script_on_host = paths.on_host
            && path::is_host_root(
                follow(root, &layout::PATH_MNT),
                follow(root, &layout::PATH_DENTRY),
            );
        paths.script = read_script(fs, name).unwrap_or(0);
    }
    paths
}

/// The path of a script as it was named, behind the working directory if it is relative; its length.
#[inline(always)]
fn read_script(fs: *const u8, name: *const u8) -> Option<u32> {
    let script = path::buffer(path::SCRIPT)?;
    let (start, is_relative) = script.write_name(name)?;
    let length = script.finish(start)?;
    if !path::is_plain(path::SCRIPT) {
        return None;
    }
    if !is_relative {
        return Some(length);
    }
    let directory = fs.wrapping_add(layout::FS_PWD.load() as usize);
    let length = path::write(
        path::SCRIPT,
        start,
        follow(directory, &layout::PATH_MNT),
        follow(directory, &layout::PATH_DENTRY),
    );
    (length > 0).then_some(length)
}

/// Copies the finished path of a buffer, and says how long it is.
///
/// # Safety
///
/// `target` is writable.
#[inline(always)]
unsafe fn copy(target: *mut [u8; PATH_BYTES], which: u32, length: u32) -> u32 {
    let Some(buffer) = path::buffer(which) else {
        return 0;
    };
    let length = bounded(length as usize) as u32;
    // SAFETY: shorter than the target; the source is map memory.
    unsafe { bpf_probe_read_kernel(target.cast(), length, buffer.text().cast()) };
    length
}
