//! Who acts: the nearest labelled ancestor of a cgroup.

use agentguard_common::{
    audit::{FACTS_OF_PROCESS, FACTS_OF_USER},
    capacity::{MAX_CGROUP_DEPTH, MAX_CGROUPS},
    cgroup::{Label, LabelKey, NO_CGROUP, Rank},
    fact::NO_CHOICE,
    identity::AgentId,
    process::{NO_EXEC, ProcessLabel},
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_NO_PREALLOC},
    btf_maps::HashMap,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
    },
    macros::btf_map,
};

use crate::{
    fact::{self, User},
    layout::{self, read_at},
    policy::Active,
    process,
    task::Task,
};

/// Cgroup → identity, for both slots. Only the daemon writes it: the idle slot at a reload, the
/// active one as cgroups come and go.
#[btf_map]
static CGROUPS: HashMap<LabelKey, Label, { MAX_CGROUPS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Who a task is found to be.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Found {
    pub identity: AgentId,
    /// [`Rank`] of what decided.
    pub rank: Rank,
    /// Which of `facts` were looked at: `FACTS_*` bits of the audit event.
    pub facts_known: u8,
    pub reserved: [u8; 2],
    /// The exec that it runs, or [`NO_EXEC`].
    pub exec_id: u64,
    /// The facts that hold.
    pub facts: u64,
    /// Its cgroup, process and user, where it is the running task.
    pub cgroup_id: u64,
    pub pid: u32,
    pub uid: u32,
}

/// The label of one cgroup, without its ancestors.
#[inline(always)]
pub fn label_of(active: Active, cgroup_id: u64) -> Option<Label> {
    let key = LabelKey {
        cgroup_id,
        slot: active.slot().into(),
    };
    // SAFETY: the daemon replaces values whole.
    unsafe { CGROUPS.get(key) }.copied()
}

/// The label of the running task's cgroup, `own`.
#[inline(always)]
fn label_of_current(active: Active, own: u64) -> Label {
    nearest(active, own, |level| {
        // SAFETY: any level may be asked for.
        unsafe { bpf_get_current_ancestor_cgroup_id(level) }
    })
}

/// Whom the running task belongs to.
#[inline(always)]
pub fn of_current(active: Active) -> Found {
    let mut found = Found {
        identity: AgentId::UNKNOWN,
        rank: Rank::Default,
        facts_known: 0,
        reserved: [0; 2],
        exec_id: NO_EXEC,
        facts: 0,
        cgroup_id: 0,
        pid: 0,
        uid: 0,
    };
    identify(active.generation, &raw mut found);
    found
}

/// Finds whom the running task belongs to.
///
/// A global function: the verifier looks at it once, and takes anything for what it leaves behind. It
/// would otherwise follow each way that leads to an identity through all that comes after, which for
/// Linux 6.1 is too much.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn identify(generation: u64, found: *mut Found) -> u32 {
    // The verifier does not know that nobody passes null.
    if found.is_null() {
        return 0;
    }
    let active = Active { generation };
    let task = Task::current();
    let (cgroup_id, pid, user) = (task.cgroup_id(), task.pid(), task.user());
    let resolved = resolve(
        active,
        &label_of_current(active, cgroup_id),
        process::label_of(pid),
        || user,
    );
    // SAFETY: it points to a whole one.
    unsafe {
        *found = Found {
            cgroup_id,
            pid,
            uid: user.uid,
            ..resolved
        };
    }
    0
}

/// Facts that hold in the cgroup of the running task. A global function, as [`identify`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cgroup_facts(generation: u64) -> u64 {
    label_of_current(Active { generation }, Task::current().cgroup_id()).facts
}

/// See [`cgroup_facts`].
#[inline(always)]
pub fn facts_of_current(active: Active) -> u64 {
    cgroup_facts(active.generation)
}

/// Whom any task belongs to, by its cgroup's label and its process.
#[inline(always)]
pub fn of_task(active: Active, label: &Label, task: *const u8) -> Found {
    let pid: u32 = read_at(task, &layout::TASK_TGID);
    resolve(active, label, process::label_of(pid), || {
        User::of_task(task)
    })
}

/// Whom the socket of a packet belongs to by its cgroup: for sockets without a tag, such as those
/// older than the programs, and MPTCP subflows that a kernel thread opens.
#[inline(always)]
pub fn of_packet(active: Active, skb: *mut __sk_buff) -> AgentId {
    // SAFETY: `skb` is the context of the running program.
    let own = unsafe { bpf_skb_cgroup_id(skb) };
    nearest(active, own, |level| {
        // SAFETY: as above; any level may be asked for.
        unsafe { bpf_skb_ancestor_cgroup_id(skb, level) }
    })
    .identity
}

/// The order of precedence: an explicit launch, then the executable, then the best of unit, container,
/// cgroup and session, among which the daemon has chosen when it labelled the cgroup.
#[inline(always)]
fn resolve(
    active: Active,
    label: &Label,
    process: Option<&ProcessLabel>,
    user: impl Fn() -> User,
) -> Found {
    let mut found = Found {
        identity: label.identity,
        rank: rank_of(label.rank),
        facts_known: FACTS_OF_PROCESS,
        reserved: [0; 2],
        exec_id: NO_EXEC,
        facts: label.facts,
        cgroup_id: 0,
        pid: 0,
        uid: 0,
    };
    let mut by_executable = AgentId::NONE;
    if let Some(process) = process {
        found.exec_id = process.exec_id;
        by_executable = process.identity;
        // Another generation gave the bits other meanings. Until it is relabelled, which takes
        // milliseconds, the process keeps what it is and meets no new condition.
        if process.generation == active.generation {
            found.facts |= process.facts;
        } else {
            found.facts_known = 0;
        }
    }
    let mut choices = label.choices;
    if label.rank == Rank::Launch as u32 {
        choices = NO_CHOICE;
    } else if by_executable != AgentId::NONE && active.knows(by_executable) {
        found.identity = by_executable;
        found.rank = Rank::Executable;
        choices = NO_CHOICE;
    }
    let note_user = |found: &mut Found| {
        found.facts |= user().facts(active);
        found.facts_known |= FACTS_OF_USER;
    };
    if choices != NO_CHOICE {
        note_user(&mut found);
        if let Some(choice) = fact::choose(active, choices, found.facts) {
            found.identity = choice.identity;
        }
    }
    // The variant of an identity whose rules have conditions.
    let variants = active.record(found.identity).variants;
    if variants != NO_CHOICE {
        note_user(&mut found);
        if let Some(choice) = fact::choose(active, variants, found.facts) {
            found.identity = choice.identity;
        }
    }
    found
}

#[inline(always)]
const fn rank_of(number: u32) -> Rank {
    match number {
        1 => Rank::Session,
        2 => Rank::Cgroup,
        3 => Rank::Unit,
        4 => Rank::Executable,
        5 => Rank::Launch,
        _ => Rank::Default,
    }
}

/// The label of `own`, else of its deepest labelled ancestor, else what holds for the rest of the host.
///
/// A child made a moment ago has no label of its own yet; its ancestors answer for it, so there is
/// no moment in which it is nobody's. The daemon labels a cgroup with what wins over all its ancestors,
/// so the nearest label is the whole answer.
#[inline(always)]
fn nearest(active: Active, own: u64, ancestor: impl Fn(i32) -> u64) -> Label {
    if let Some(label) = label_of(active, own) {
        return label;
    }
    let mut found = None;
    for level in 0..MAX_CGROUP_DEPTH as i32 {
        let id = ancestor(level);
        // Past the own level there is no ancestor, and the own label was asked for already.
        if id == 0 || id == own {
            break;
        }
        if let Some(label) = label_of(active, id) {
            found = Some(label);
        }
    }
    found.unwrap_or_else(|| of_rest(active))
}

/// The label of what no selector means.
#[inline(always)]
pub fn of_rest(active: Active) -> Label {
    label_of(active, NO_CGROUP).unwrap_or(Label {
        identity: AgentId::UNKNOWN,
        ..Label::default()
    })
}
