//! Conditions of policy that did not hold for who made a connection: records tell of them.

use std::{collections::HashMap, sync::Arc};

use agentguard_common::{
    audit::{AuditEvent, FACTS_OF_PROCESS},
    cgroup::Rank,
    identity::AgentId,
};

use super::{Daemon, generation::InForce, places::Place};
use crate::{
    audit::Unmet,
    identity::{
        execution::{Execution, Matcher},
        resolve::{self, Known, Process, Resolution},
    },
};

/// Answers that are remembered.
const REMEMBERED: usize = 4_096;

/// What is told of one event.
const MAX_TOLD: usize = 4;

/// All that an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    generation: u64,
    identity: AgentId,
    rank: Rank,
    cgroup_id: u64,
    exec_id: u64,
    known: Known,
}

/// Answers so far: the events of one process hardly differ in this.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    answers: HashMap<Key, Arc<[Unmet]>>,
    none: Arc<[Unmet]>,
}

impl Conditions {
    /// Cgroups may belong to others now.
    pub(super) fn forget(&mut self) {
        self.answers.clear();
    }
}

impl Daemon {
    /// The conditions that did not hold for who made the connection of `event`; none where that cannot
    /// be told any more.
    pub(super) fn unmet(&mut self, event: &AuditEvent) -> Arc<[Unmet]> {
        let none = self.conditions.none.clone();
        // What the socket was judged as may be another than who made the call, and policy may have
        // changed: of the facts of another generation nobody knows what they meant.
        let Some(policy) = self
            .in_force
            .clone()
            .filter(|policy| policy.generation == event.generation)
        else {
            return none;
        };
        let selection = &policy.compiled.selection;
        let key = Key {
            generation: event.generation,
            identity: event.identity,
            rank: event.rank,
            cgroup_id: event.cgroup_id,
            exec_id: event.exec_id,
            known: Known::of_event(selection, event.facts, event.facts_known),
        };
        if let Some(answer) = self.conditions.answers.get(&key) {
            return answer.clone();
        }
        let Some(place) = self.places.get(event.cgroup_id).cloned() else {
            return none;
        };
        let answer: Arc<[Unmet]> = self.find_unmet(&policy, &place, &key).into();
        if self.conditions.answers.len() >= REMEMBERED {
            self.conditions.forget();
        }
        self.conditions.answers.insert(key, answer.clone());
        answer
    }

    /// SHA-256 of the executable of who made the connection of `event`, if policy asks for it: it is the
    /// file that had this hash as policy was loaded, and it had not changed as it was started.
    pub(super) fn sha256(&self, event: &AuditEvent) -> Option<[u8; 32]> {
        let policy = self.in_force.as_ref()?;
        if policy.generation != event.generation || event.facts_known & FACTS_OF_PROCESS == 0 {
            return None;
        }
        let hashes = &policy.compiled.selection.hashes;
        let bits = hashes.iter().fold(0, |bits, hash| bits | hash.facts);
        if event.facts & bits == 0 {
            return None;
        }
        let execution = self.executions.get(event.exec_id)?;
        let found = policy.hashed.iter().find(|it| {
            (it.place.device, it.place.inode) == (execution.device, execution.inode)
                && event.facts & it.file.facts != 0
        })?;
        Some(found.sha256)
    }

    fn find_unmet(&self, policy: &InForce, place: &Place, key: &Key) -> Vec<Unmet> {
        let compiled = &policy.compiled;
        let Some(identity) = policy.index_of(key.identity) else {
            return Vec::new();
        };
        let execution = self.executions.get(key.exec_id);
        let process = Process {
            facts: key.known,
            facts_at_exec: execution
                .map_or(0, |execution| self.facts_at_exec(policy, key, execution)),
            executable: execution
                .and_then(|execution| execution.path.as_deref())
                .unwrap_or_default(),
            script: execution.and_then(|execution| execution.script.as_deref()),
            inherited: (key.rank == Rank::Executable).then_some(identity),
        };
        let Resolution {
            identity: resolved,
            passed_over,
        } = resolve::resolve(compiled, &place.selected, &process);
        if resolved != identity {
            return Vec::new();
        }
        let name = |index: usize| {
            let identity = compiled.identities.get(index);
            identity.map_or("", |identity| &identity.name)
        };
        let identities = passed_over.into_iter().map(|other| Unmet {
            of: format!("identity {}", name(other.identity)),
            conditions: other.failed,
        });
        let rules =
            resolve::unmet_rules(compiled, identity, key.known).filter_map(|(rule, failed)| {
                let source = self.trail.rule(key.generation, rule.number)?;
                Some(Unmet {
                    of: format!("rule {}", source.name),
                    conditions: failed,
                })
            });
        identities.chain(rules).take(MAX_TOLD).collect()
    }

    /// What held as an executable was started: its own facts, which the process still has, and those
    /// of who started it and where.
    fn facts_at_exec(&self, policy: &InForce, key: &Key, execution: &Execution) -> u64 {
        let selection = &policy.compiled.selection;
        let place = self.places.get(execution.cgroup_id);
        let around = selection.cgroup_facts() | selection.user_facts();
        key.known.facts & !around
            | Matcher::new(selection).user_facts(execution.uid, execution.gid, execution.login_uid)
            | place.map_or(0, |place| place.selected.facts)
    }
}
