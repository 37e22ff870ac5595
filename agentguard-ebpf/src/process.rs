//! What each process carries: the exec that it runs, and the identity that its executable gives it.

use agentguard_common::{
    capacity::MAX_PROCESSES,
    identity::AgentId,
    process::{FLAG_INHERIT, ProcessLabel},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap},
    macros::btf_map,
};

use crate::atomic;

/// Process → label. The programs write it at fork, exec and exit; the daemon adds the processes that
/// are older than the programs.
#[btf_map]
static PROCESSES: HashMap<
    u32,
    ProcessLabel,
    { MAX_PROCESSES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Exec → label, what the daemon found for a new generation; `hooks/relabel.rs` hands it out.
#[btf_map]
static RELABELS: HashMap<
    u64,
    ProcessLabel,
    { MAX_PROCESSES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// The number of the last exec, how many labels found the map full, and how many execs the ring.
#[btf_map]
static PROCESS_COUNTS: Array<u64, 3> = Array::new();

const LAST_EXEC: u32 = 0;
const LABELS_LOST: u32 = 1;
const EVENTS_LOST: u32 = 2;

/// The label of a process.
#[inline(always)]
pub fn label_of<'a>(pid: u32) -> Option<&'a ProcessLabel> {
    // SAFETY: an exec replaces the value whole; `relabel` writes single aligned words of it.
    unsafe { PROCESSES.get(pid) }
}

/// Labels a process.
#[inline(always)]
pub fn set_label(pid: u32, label: &ProcessLabel) {
    if PROCESSES.insert(pid, label, 0).is_err() {
        count(LABELS_LOST);
    }
}

/// Forgets a process that has ended.
#[inline(always)]
pub fn forget(pid: u32) {
    if PROCESSES.remove(pid).is_err() {
        // It had no label.
    }
}

/// Gives a process what the daemon found for its exec, unless that is older than what it has. Of the same
/// generation it is the better word: the process may have taken over what its parent, or it before, had
/// from an older one.
#[inline(always)]
pub fn relabel(pid: u32) {
    let Some(label) = PROCESSES.get_ptr_mut(pid) else {
        return;
    };
    // SAFETY: both values live until the program ends. An exec meanwhile replaces the label whole, and
    // then this writes to the one that is no longer found.
    unsafe {
        let Some(found) = RELABELS.get((*label).exec_id) else {
            return;
        };
        if found.generation < (*label).generation {
            return;
        }
        (*label).identity = found.identity;
        (*label).flags = found.flags;
        (*label).child_facts = found.child_facts;
        (*label).facts = found.facts;
        (*label).generation = found.generation;
    }
}

/// A number for a new exec.
#[inline(always)]
pub fn next_exec_id() -> u64 {
    match PROCESS_COUNTS.get_ptr_mut(LAST_EXEC) {
        // SAFETY: an aligned u64 of a live map value.
        Some(last) => unsafe { atomic::fetch_add(last, 1) + 1 },
        None => 0,
    }
}

/// Counts an exec that the daemon is not told of.
#[inline(always)]
pub fn count_lost_event() {
    count(EVENTS_LOST);
}

#[inline(always)]
fn count(which: u32) {
    if let Some(counter) = PROCESS_COUNTS.get_ptr_mut(which) {
        // SAFETY: an aligned u64 of a live map value.
        unsafe { atomic::add(counter, 1) };
    }
}

/// Whom a process is by what it ran before, where its new executable says nothing.
#[inline(always)]
pub fn inherited(former: Option<&ProcessLabel>) -> (AgentId, u32) {
    match former {
        Some(label) if label.flags & FLAG_INHERIT != 0 => (label.identity, label.flags),
        _ => (AgentId::NONE, 0),
    }
}
