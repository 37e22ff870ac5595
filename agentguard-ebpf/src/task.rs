//! The running task, read without a call of a helper for each field: calls are most of what a hook
//! costs.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use crate::{
    fact::User,
    layout::{self, number_at, pointer_at},
};

/// The running task.
pub struct Task(*const u8);

impl Task {
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: takes no argument and has no precondition.
        Self(unsafe { bpf_get_current_task_btf() }.cast_const().cast())
    }

    /// Process (thread group) in the initial namespace.
    #[inline(always)]
    pub fn pid(&self) -> u32 {
        // SAFETY: the verifier knows it as a task.
        unsafe { number_at(self.0, &layout::TASK_TGID) }
    }

    /// When its process started (`CLOCK_BOOTTIME`): tells it from another one with its number.
    #[inline(always)]
    pub fn started_ns(&self) -> u64 {
        // SAFETY: as above; the leader lives as long as any thread of its process.
        unsafe {
            let leader = pointer_at(self.0, &layout::TASK_LEADER);
            if leader.is_null() {
                return 0;
            }
            number_at(leader, &layout::TASK_STARTED)
        }
    }

    /// Real user and group in the initial user namespace, and who logged in.
    #[inline(always)]
    pub fn user(&self) -> User {
        // SAFETY: as above; credentials live as long as the task that has them runs.
        unsafe {
            let credentials = pointer_at(self.0, &layout::TASK_CRED);
            let login_uid = number_at(self.0, &layout::TASK_LOGIN_UID);
            if credentials.is_null() {
                // No task is without. The verifier does not know.
                return User::nobody(login_uid);
            }
            User {
                uid: number_at(credentials, &layout::CRED_UID),
                gid: number_at(credentials, &layout::CRED_GID),
                login_uid,
            }
        }
    }

    /// Id of its cgroup in the v2 hierarchy; 0 if it has none, which no running task has.
    #[inline(always)]
    pub fn cgroup_id(&self) -> u64 {
        // SAFETY: as above; the programs run under RCU, which holds what they walk along.
        unsafe {
            let set = pointer_at(self.0, &layout::TASK_CGROUPS);
            if set.is_null() {
                return 0;
            }
            let cgroup = pointer_at(set, &layout::CSS_SET_DFL_CGRP);
            if cgroup.is_null() {
                return 0;
            }
            let node = pointer_at(cgroup, &layout::CGROUP_KN);
            if node.is_null() {
                return 0;
            }
            number_at(node, &layout::KN_ID)
        }
    }

    /// Its name as the kernel keeps it, NUL padded, in two halves.
    #[inline(always)]
    pub fn comm(&self) -> [u64; 2] {
        // SAFETY: as above. The name has 16 bytes.
        unsafe {
            let offset = layout::TASK_COMM.load() as usize;
            let comm = self.0.add(offset).cast::<u64>();
            [*comm, *comm.add(1)]
        }
    }
}
