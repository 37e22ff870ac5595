//! Facts: what holds for a task besides its cgroup, and the identities that this lets it choose.

use agentguard_common::{
    capacity::{MAX_CHOICES, MAX_USERS},
    fact::{Choice, KIND_GROUP, KIND_USER, LOGIN, MAX_CHAIN, NO_CHOICE, UserKey},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap},
    macros::btf_map,
};

use crate::{
    layout::{self, follow, read_at},
    policy::Active,
};

/// Choices: all of slot 0, then all of slot 1. The daemon writes the idle slot, and appends to the
/// active one as cgroups appear.
#[btf_map]
static CHOICES: Array<Choice, { 2 * MAX_CHOICES as usize }> = Array::new();

/// User or group → facts, for both slots. The daemon writes the idle slot.
#[btf_map]
static USERS: HashMap<UserKey, u64, { MAX_USERS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// A task's user and group in the initial user namespace, and who logged in.
#[derive(Clone, Copy)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// `u32::MAX` without a login.
    pub login_uid: u32,
}

impl User {
    /// A user for whom no selector holds.
    #[inline(always)]
    pub const fn nobody(login_uid: u32) -> Self {
        Self {
            uid: u32::MAX,
            gid: u32::MAX,
            login_uid,
        }
    }

    /// Of any task.
    #[inline(always)]
    pub fn of_task(task: *const u8) -> Self {
        let credentials = follow(task, &layout::TASK_CRED);
        Self {
            uid: read_at(credentials, &layout::CRED_UID),
            gid: read_at(credentials, &layout::CRED_GID),
            login_uid: read_at(task, &layout::TASK_LOGIN_UID),
        }
    }

    /// The facts that hold for it.
    #[inline(always)]
    pub fn facts(&self, active: Active) -> u64 {
        let login = if self.login_uid == u32::MAX { 0 } else { LOGIN };
        login | of_id(active, KIND_USER, self.uid) | of_id(active, KIND_GROUP, self.gid)
    }
}

#[inline(always)]
fn of_id(active: Active, kind: u32, id: u32) -> u64 {
    let key = UserKey {
        id,
        kind,
        slot: active.slot(),
        reserved: 0,
    };
    // SAFETY: values are eight bytes, written whole.
    unsafe { USERS.get(key) }.copied().unwrap_or(0)
}

/// The identity that the chain from `first` on gives to who has `facts`.
#[inline(always)]
pub fn choose(active: Active, first: u32, facts: u64) -> Option<Choice> {
    if first == NO_CHOICE {
        return None;
    }
    choice(active.slot(), find_choice(active.slot(), first, facts))
}

/// Number of the choice, or [`NO_CHOICE`]. A global function, as `identity::identify`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_choice(slot: u32, first: u32, facts: u64) -> u32 {
    let mut number = first;
    for _ in 0..MAX_CHAIN {
        let Some(choice) = choice(slot, number) else {
            return NO_CHOICE;
        };
        if choice.holds(facts) {
            return number;
        }
        number = choice.next;
    }
    NO_CHOICE
}

#[inline(always)]
fn choice(slot: u32, number: u32) -> Option<Choice> {
    if number == NO_CHOICE || number >= MAX_CHOICES {
        return None;
    }
    CHOICES.get((slot & 1) * MAX_CHOICES + number).copied()
}
