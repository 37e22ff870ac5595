//! Who acts: the nearest labelled ancestor of a cgroup.

use agentguard_common::{
    capacity::{MAX_CGROUP_DEPTH, MAX_CGROUPS},
    cgroup::{Label, LabelKey},
    identity::AgentId,
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_NO_PREALLOC},
    btf_maps::HashMap,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_skb_ancestor_cgroup_id,
        bpf_skb_cgroup_id,
    },
    macros::btf_map,
};

use crate::policy::Active;

/// Cgroup → identity, for both slots. Only the daemon writes it: the idle slot at a reload, the
/// active one as cgroups come and go.
#[btf_map]
static CGROUPS: HashMap<LabelKey, Label, { MAX_CGROUPS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The label of one cgroup, without its ancestors.
#[inline(always)]
pub fn label_of(active: Active, cgroup_id: u64) -> Option<AgentId> {
    let key = LabelKey {
        cgroup_id,
        slot: active.slot().into(),
    };
    // SAFETY: values are four bytes, written whole.
    unsafe { CGROUPS.get(key) }.map(|label| label.0)
}

/// Whom the running task belongs to.
#[inline(always)]
pub fn of_current(active: Active) -> AgentId {
    // SAFETY: takes no argument and has no precondition.
    let own = unsafe { bpf_get_current_cgroup_id() };
    nearest(active, own, |level| {
        // SAFETY: any level may be asked for.
        unsafe { bpf_get_current_ancestor_cgroup_id(level) }
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
}

/// The label of `own`, else of its deepest labelled ancestor, else unknown.
///
/// A child made a moment ago has no label of its own yet; its ancestors answer for it, so there is
/// no moment in which it is nobody's.
#[inline(always)]
fn nearest(active: Active, own: u64, ancestor: impl Fn(i32) -> u64) -> AgentId {
    if let Some(identity) = label_of(active, own) {
        return identity;
    }
    let mut found = AgentId::UNKNOWN;
    for level in 0..MAX_CGROUP_DEPTH as i32 {
        let id = ancestor(level);
        // Past the own level there is no ancestor, and the own label was asked for already.
        if id == 0 || id == own {
            break;
        }
        if let Some(identity) = label_of(active, id) {
            found = identity;
        }
    }
    found
}
