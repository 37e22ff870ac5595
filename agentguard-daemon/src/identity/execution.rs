//! What is known of each exec: one run of one executable, shared by the children that a process forks
//! until they start programs of their own.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use agentguard_common::{
    fact::{KIND_GROUP, KIND_USER, LOGIN, ON_HOST},
    identity::AgentId,
    process::{EXEC_ON_HOST, ExecEvent, FLAG_INHERIT, NO_EXEC, ProcessLabel},
};

use crate::{
    audit::{Ancestor, Program, Untrusted},
    policy::selection::{Choice, Selection},
};

mod origins;

use origins::Origins;

/// Execs that are kept before those of ended processes are forgotten.
const KEPT: usize = 16_384;

/// Execs of ended processes that are kept then: their last events may still be on their way.
const KEPT_ENDED: usize = 4_096;

/// Ancestors that a record tells of.
pub const MAX_ANCESTORS: usize = 8;

/// Programs that a process ran before, of which a later policy may make something else: those that some
/// policy could tell apart, however often each was run.
pub const MAX_FORMERS: usize = 64;

/// One run of one executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// The process that started it.
    pub pid: u32,
    /// Its parent then.
    pub parent_pid: u32,
    /// What that process ran before: itself, or its parent before it was forked.
    pub former: u64,
    /// The exec of its parent.
    pub parent: u64,
    /// Path of the executable, if it could be told.
    pub path: Option<Box<[u8]>>,
    /// Path of the script that it interprets.
    pub script: Option<Box<[u8]>>,
    /// Whether the path is one of the host's own tree.
    pub on_host: bool,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// The user who logged in, if somebody did.
    pub login_uid: Option<u32>,
    /// The audit session, if there is one.
    pub session_id: Option<u32>,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Device of its file, as the kernel keeps it.
    pub device: u32,
    /// Inode of its file.
    pub inode: u64,
}

impl Execution {
    /// From what the kernel tells.
    #[must_use]
    pub fn of_event(event: &ExecEvent) -> Self {
        let text = |bytes: &[u8], length: u32| {
            let bytes = bytes.get(..length as usize).unwrap_or_default();
            (!bytes.is_empty()).then(|| bytes.into())
        };
        Self {
            pid: event.pid,
            parent_pid: event.parent_pid,
            former: event.former_exec_id,
            parent: event.parent_exec_id,
            path: text(&event.path, event.path_len),
            script: text(&event.script, event.script_len),
            on_host: event.flags & EXEC_ON_HOST != 0,
            uid: event.uid,
            gid: event.gid,
            login_uid: set(event.login_uid),
            session_id: set(event.session_id),
            cgroup_id: event.cgroup_id,
            device: event.device,
            inode: event.inode,
        }
    }
}

/// The kernel says "none" with all bits set.
#[must_use]
pub fn set(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

/// The execs by their numbers.
#[derive(Debug)]
pub struct Executions {
    known: BTreeMap<u64, Execution>,
    /// Those that records have told of, as they tell.
    told: HashMap<u64, Arc<Program>>,
    /// Above so many it is time to forget.
    full_at: usize,
}

impl Default for Executions {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            told: HashMap::new(),
            full_at: KEPT,
        }
    }
}

impl Executions {
    /// Adds one.
    pub fn insert(&mut self, id: u64, execution: Execution) {
        self.known.insert(id, execution);
    }

    /// What is known of one.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Execution> {
        self.known.get(&id)
    }

    /// The greatest number.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.known.keys().next_back().copied()
    }

    /// All of them, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Execution)> {
        self.known.iter().map(|(&id, execution)| (id, execution))
    }

    /// The execs of the parent, its parent and so on, the nearest first.
    pub fn ancestors(&self, id: u64) -> impl Iterator<Item = &Execution> {
        self.lineage(id, |execution| execution.parent)
            .filter_map(|id| self.get(id))
            .take(MAX_ANCESTORS)
    }

    /// What records tell of one.
    pub fn program(&mut self, id: u64) -> Option<Arc<Program>> {
        if let Some(program) = self.told.get(&id) {
            return Some(program.clone());
        }
        let execution = self.get(id)?;
        let text = |path: &Option<Box<[u8]>>| path.as_deref().map(Untrusted::new);
        let program = Arc::new(Program {
            exe: text(&execution.path),
            script: text(&execution.script),
            login_uid: execution.login_uid,
            session_id: execution.session_id,
            ancestors: self
                .ancestors(id)
                .map(|ancestor| Ancestor {
                    pid: ancestor.pid,
                    exe: text(&ancestor.path),
                })
                .collect(),
        });
        self.told.insert(id, program.clone());
        Some(program)
    }

    /// Whether it is time to [`Self::forget`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.known.len() > self.full_at
    }

    /// Forgets the execs that no process runs, but for the last, and for what is asked of where the
    /// running ones come from: [`MAX_ANCESTORS`], and what each process ran before: the last run of each
    /// of [`MAX_FORMERS`] programs, and the last one that `decides` who it is. Without that bound a
    /// process that starts programs for ever would fill the memory.
    pub fn forget(
        &mut self,
        running: impl IntoIterator<Item = u64>,
        decides: impl Fn(&Execution) -> bool,
    ) {
        let mut kept: HashSet<u64> = HashSet::new();
        let mut known_deciding = HashMap::new();
        let mut origins_of = Origins::new(self);
        for id in running {
            if kept.contains(&id) || !self.known.contains_key(&id) {
                continue;
            }
            let mut origins = origins_of.of(id).to_vec();
            origins.push(id);
            origins.extend(self.last_deciding(id, &decides, &mut known_deciding));
            // What a former one was, its parent had a say in.
            let parents = origins.iter().filter_map(|id| self.get(*id));
            kept.extend(parents.map(|execution| execution.parent));
            kept.extend(origins);
            let ancestors = self.lineage(id, |execution| execution.parent);
            kept.extend(ancestors.take(MAX_ANCESTORS));
        }
        let ended: Vec<u64> = self
            .known
            .keys()
            .copied()
            .filter(|id| !kept.contains(id))
            .collect();
        let surplus = ended.len().saturating_sub(KEPT_ENDED);
        let forgotten: HashSet<u64> = ended.into_iter().take(surplus).collect();
        let joined: Vec<(u64, u64)> = self
            .known
            .iter()
            .filter(|(id, execution)| {
                !forgotten.contains(id) && forgotten.contains(&execution.former)
            })
            .map(|(&id, _)| {
                let mut formers = self.formers(id);
                let next = formers.find(|former| !forgotten.contains(former));
                (id, next.unwrap_or(NO_EXEC))
            })
            .collect();
        for (id, former) in joined {
            if let Some(execution) = self.known.get_mut(&id) {
                execution.former = former;
            }
        }
        for id in forgotten {
            self.known.remove(&id);
            self.told.remove(&id);
        }
        self.full_at = KEPT.max(self.known.len() + KEPT_ENDED);
    }

    /// The last of what a process ran before `id` that decides who it is; `known` keeps the answers.
    fn last_deciding(
        &self,
        id: u64,
        decides: impl Fn(&Execution) -> bool,
        known: &mut HashMap<u64, Option<u64>>,
    ) -> Option<u64> {
        let mut path = Vec::new();
        let mut found = None;
        for former in self.formers(id) {
            if let Some(&answer) = known.get(&former) {
                found = answer;
                break;
            }
            path.push(former);
            if self.get(former).is_some_and(&decides) {
                found = Some(former);
                break;
            }
        }
        known.extend(path.into_iter().map(|former| (former, found)));
        found
    }

    /// What a process ran before `id`, the last first.
    fn formers(&self, id: u64) -> impl Iterator<Item = u64> {
        self.lineage(id, |execution| execution.former)
    }

    /// The known execs that `next` leads to, again and again.
    fn lineage(&self, id: u64, next: impl Fn(&Execution) -> u64) -> impl Iterator<Item = u64> {
        let mut seen = HashSet::from([id]);
        let mut follow = move |id: u64| {
            let next = next(self.get(id)?);
            (self.known.contains_key(&next) && seen.insert(next)).then_some(next)
        };
        std::iter::successors(Some(id), move |&id| follow(id)).skip(1)
    }
}

/// What a policy makes of executables, ready to ask.
#[derive(Debug)]
pub struct Matcher<'a> {
    selection: &'a Selection,
    users: HashMap<(u32, u32), u64>,
}

/// What is found for one exec: its label, less its generation, with an index for its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Index of the identity that its executable gives it, now or before.
    pub identity: Option<usize>,
    /// Whether its children's executables keep it.
    pub inherit: bool,
    /// Facts of the executable and its parent.
    pub facts: u64,
    /// Facts of its children.
    pub child_facts: u64,
}

impl Judged {
    /// As the kernel keeps it.
    #[must_use]
    pub fn label(&self, exec_id: u64, generation: u64, ids: &[AgentId]) -> ProcessLabel {
        ProcessLabel {
            exec_id,
            generation,
            facts: self.facts,
            child_facts: self.child_facts,
            identity: self
                .identity
                .and_then(|index| ids.get(index))
                .copied()
                .unwrap_or(AgentId::NONE),
            flags: if self.inherit { FLAG_INHERIT } else { 0 },
        }
    }
}

impl<'a> Matcher<'a> {
    /// Of the selectors of a policy.
    #[must_use]
    pub fn new(selection: &'a Selection) -> Self {
        let users = selection.users.iter();
        Self {
            selection,
            users: users
                .map(|user| ((user.kind, user.id), user.facts))
                .collect(),
        }
    }

    /// Facts of a user.
    #[must_use]
    pub fn user_facts(&self, uid: u32, gid: u32, login_uid: Option<u32>) -> u64 {
        let of = |kind, id| self.users.get(&(kind, id)).copied().unwrap_or(0);
        let login = if login_uid.is_some() { LOGIN } else { 0 };
        login | of(KIND_USER, uid) | of(KIND_GROUP, gid)
    }

    /// Judges every exec as the kernel would have, had this policy been in force when it began.
    /// `around` gives the facts of its cgroup and file.
    #[must_use]
    pub fn judge_all(
        &self,
        executions: &Executions,
        around: impl Fn(&Execution) -> u64,
    ) -> HashMap<u64, Judged> {
        let mut judged = HashMap::new();
        let all = executions.iter().map(|(id, _)| id);
        self.judge_more(executions, all, &mut judged, around);
        judged
    }

    /// As [`Self::judge_all`], of these execs alone, and of those that they depend on.
    pub fn judge_more(
        &self,
        executions: &Executions,
        ids: impl IntoIterator<Item = u64>,
        judged: &mut HashMap<u64, Judged>,
        around: impl Fn(&Execution) -> u64,
    ) {
        for id in ids {
            // What it depends on comes first; a chain is as long as a process has started programs.
            let mut chain = vec![id];
            while let Some(execution) = chain.last().and_then(|&id| executions.get(id)) {
                let missing = [execution.parent, execution.former].into_iter().find(|id| {
                    *id != NO_EXEC
                        && !judged.contains_key(id)
                        && !chain.contains(id)
                        && executions.get(*id).is_some()
                });
                match missing {
                    Some(id) => chain.push(id),
                    None => {
                        let of = |id: u64| judged.get(&id).copied().unwrap_or_default();
                        let found = self.judge(
                            execution,
                            of(execution.parent),
                            of(execution.former),
                            around(execution),
                        );
                        if let Some(id) = chain.pop() {
                            judged.insert(id, found);
                        }
                    }
                }
            }
        }
    }

    /// Judges one exec, as `sched_process_exec` of the kernel programs does.
    #[must_use]
    pub fn judge(
        &self,
        execution: &Execution,
        parent: Judged,
        former: Judged,
        around: u64,
    ) -> Judged {
        let find =
            |path: &Option<Box<[u8]>>| path.as_ref().and_then(|path| self.selection.set_of(path));
        let (executable, script) = (find(&execution.path), find(&execution.script));
        let host = if execution.on_host { ON_HOST } else { 0 };
        let mut found = Judged {
            facts: parent.child_facts | host,
            ..Judged::default()
        };
        let user = self.user_facts(execution.uid, execution.gid, execution.login_uid);
        for set in [executable, script].into_iter().flatten() {
            found.facts |= set.own_facts;
            // Whoever has mounts of his own can make himself the child of any path.
            if execution.on_host {
                found.child_facts |= set.parent_facts;
            }
        }
        let facts = found.facts | user | around;
        let chosen = [script, executable]
            .into_iter()
            .flatten()
            .find_map(|set| set.choices.iter().find(|choice| holds(choice, facts)));
        match chosen {
            Some(choice) => {
                found.identity = Some(choice.identity);
                found.inherit = choice.inherit;
            }
            None if former.inherit => {
                found.identity = former.identity;
                found.inherit = true;
            }
            None => {}
        }
        found
    }
}

/// Whether the conditions of a choice hold.
#[must_use]
pub fn holds(choice: &Choice, facts: u64) -> bool {
    facts & choice.required == choice.required && facts & choice.forbidden == 0
}

#[cfg(test)]
mod tests;
