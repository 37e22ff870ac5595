//! Processes: what they run is learnt as they start it, and what policy makes of that is handed out
//! again when policy changes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use agentguard_common::{
    identity::AgentId,
    process::{NO_EXEC, ProcessLabel},
};

use super::{
    Daemon,
    process::scan::{self, FoundProcess},
};
use crate::{
    audit::Program,
    identity::execution::{Execution, Matcher},
};

/// Numbers of execs that began before the programs were loaded: the kernel never counts so far.
const FIRST_FOUND: u64 = 1 << 63;

/// Passes over /proc, each of which can find children of processes that had no label yet.
const MAX_PASSES: u32 = 8;

/// Rounds in which programs are judged that were started while policy came into force.
const MAX_ROUNDS: u32 = 32;

impl Daemon {
    /// Takes in what the kernel tells of processes, until it has nothing more to tell.
    pub(super) fn follow_processes(&mut self) {
        self.take_processes();
        if self.executions.is_full() {
            self.forget_processes();
        }
    }

    /// The execs that the kernel tells of, and whom it has made of each.
    fn take_processes(&mut self) -> Vec<(u64, AgentId)> {
        let mut taken = Vec::new();
        while let Some(event) = self.process_ring.next() {
            match event {
                Ok(event) => {
                    let execution = Execution::of_event(&event);
                    self.executions.insert(event.exec_id, execution);
                    taken.push((event.exec_id, event.identity));
                }
                Err(error) => tracing::error!(%error, "a report of a process is lost"),
            }
        }
        taken
    }

    fn forget_processes(&mut self) {
        match self.kernel.processes() {
            Ok(processes) => {
                // What a process came from is known by its last exec, which may just have been told.
                self.take_processes();
                let running = processes.iter().map(|(_, label)| label.exec_id);
                let policy = self.in_force.clone();
                let decides = |execution: &Execution| {
                    policy.as_ref().is_some_and(|policy| {
                        let paths = [&execution.script, &execution.path].into_iter().flatten();
                        let mut sets =
                            paths.filter_map(|path| policy.compiled.selection.set_of(path));
                        sets.any(|set| !set.choices.is_empty())
                    })
                };
                self.executions.forget(running, decides);
            }
            Err(error) => tracing::error!(%error, "the processes cannot be read"),
        }
    }

    /// What is known of an exec, for records. The kernel's word of it comes before the first event of
    /// its process, but in another ring: it may still be there.
    pub(super) fn program(&mut self, id: u64) -> Option<Arc<Program>> {
        if id == NO_EXEC {
            return None;
        }
        if self.executions.get(id).is_none() {
            self.follow_processes();
        }
        self.executions.program(id)
    }

    /// Looks at the processes that were there before the programs, or that an earlier daemon knew. The
    /// programs are attached already: what starts meanwhile is labelled by them.
    pub(super) fn find_processes(&mut self) {
        let mut seen = HashSet::new();
        for _ in 0..MAX_PASSES {
            let labelled: HashMap<u32, ProcessLabel> = match self.kernel.processes() {
                Ok(labelled) => labelled.into_iter().collect(),
                Err(error) => {
                    tracing::error!(%error, "the processes cannot be read");
                    return;
                }
            };
            // An earlier daemon may have given numbers too.
            let mut next = labelled
                .values()
                .map(|label| label.exec_id)
                .chain(self.executions.last())
                .fold(FIRST_FOUND, u64::max);
            let mut is_new = false;
            for process in scan::find(&labelled, &mut next) {
                if !seen.insert((process.pid, process.start_ns)) {
                    continue;
                }
                is_new = true;
                if labelled.contains_key(&process.pid) || self.label_found(&process) {
                    self.executions.insert(process.exec_id, process.execution);
                }
            }
            if !is_new {
                return;
            }
        }
        tracing::warn!("processes come faster than they are looked at");
    }

    /// Labels a process that was found in /proc, unless the kernel knows better by now.
    fn label_found(&mut self, process: &FoundProcess) -> bool {
        let pid = process.pid;
        let label = ProcessLabel {
            exec_id: process.exec_id,
            ..ProcessLabel::default()
        };
        match self.kernel.label_process(pid, &label) {
            // It may have ended meanwhile, and its pid be another's.
            Ok(true) if scan::start_of(pid) != Some(process.start_ns) => {
                if let Err(error) = self.kernel.forget_process(pid) {
                    tracing::error!(%error, pid, "a process keeps a label that is not its own");
                }
                false
            }
            Ok(labelled) => labelled,
            Err(error) => {
                tracing::error!(%error, pid, "a process got no label");
                false
            }
        }
    }

    /// Hands out what the policy in force makes of the executables that run.
    pub(super) fn relabel_processes(&mut self) {
        self.follow_processes();
        let Some(policy) = self.in_force.clone() else {
            return;
        };
        let matcher = Matcher::new(&policy.compiled.selection);
        let hashed: HashMap<(u32, u64), u64> = policy
            .hashed
            .iter()
            .map(|it| ((it.place.device, it.place.inode), it.file.facts))
            .collect();
        let mut judged = HashMap::new();
        let known = self.executions.iter();
        let mut next: Vec<(u64, AgentId)> = known.map(|(id, _)| (id, AgentId::NONE)).collect();
        for round in 0..MAX_ROUNDS {
            let ids = || next.iter().map(|(id, _)| *id);
            let of_cgroup = |id| self.places.get(id).map_or(0, |place| place.selected.facts);
            let around = |execution: &Execution| {
                let file = (execution.device, execution.inode);
                hashed.get(&file).copied().unwrap_or(0) | of_cgroup(execution.cgroup_id)
            };
            matcher.judge_more(&self.executions, ids(), &mut judged, around);
            let labels: Vec<(u64, ProcessLabel)> = ids()
                .filter_map(|id| {
                    let label = judged.get(&id)?.label(id, policy.generation, &policy.ids);
                    Some((id, label))
                })
                .collect();
            if let Err(error) = self.kernel.relabel(&labels, round > 0) {
                tracing::error!(%error, "running processes keep what the former policy made of them");
                return;
            }
            // A program that was started before its process was looked at has taken over what a former
            // policy made of that. So may have what it started, until the kernel has made of all new ones
            // what they should be.
            let labels: HashMap<u64, ProcessLabel> = labels.into_iter().collect();
            let is_right = |(id, identity): &(u64, AgentId)| {
                labels
                    .get(id)
                    .is_none_or(|label| label.identity == *identity)
            };
            if round > 0 && next.iter().all(is_right) {
                return;
            }
            next = self.take_processes();
        }
        tracing::warn!("programs start faster than they are judged anew");
    }
}
