//! What a process ran before, as far as some policy could tell it apart.

use std::{collections::HashMap, rc::Rc};

use super::{Execution, Executions, MAX_FORMERS};

/// What of an exec a policy can ask for. Two that are the same in this are one to every policy.
#[derive(PartialEq, Eq, Hash)]
struct Kind<'a> {
    program: Program<'a>,
    parent: Option<Program<'a>>,
    user: (u32, u32, Option<u32>),
    cgroup_id: u64,
    file: (u32, u64),
}

/// Path, script, and whether they are the host's.
type Program<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, bool);

fn program(execution: &Execution) -> Program<'_> {
    (
        execution.path.as_deref(),
        execution.script.as_deref(),
        execution.on_host,
    )
}

/// Finds where execs come from. The answers of those that others come from are kept, so that each is
/// looked at once, however many processes came from it and however long their chains are.
pub(super) struct Origins<'a> {
    executions: &'a Executions,
    kinds: HashMap<Kind<'a>, usize>,
    kind_of: HashMap<u64, usize>,
    known: HashMap<u64, Rc<[u64]>>,
}

impl<'a> Origins<'a> {
    pub(super) fn new(executions: &'a Executions) -> Self {
        Self {
            executions,
            kinds: HashMap::new(),
            kind_of: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// What ran before `id`, the last first: the last of each kind, of [`MAX_FORMERS`] kinds at most.
    pub(super) fn of(&mut self, id: u64) -> Rc<[u64]> {
        let formers = self.executions.formers(id);
        let unknown = formers.take_while(|former| !self.known.contains_key(former));
        let path: Vec<u64> = std::iter::once(id).chain(unknown).collect();
        let mut found = Rc::from([]);
        for id in path.into_iter().rev() {
            found = self.after_former(id);
            self.known.insert(id, Rc::clone(&found));
        }
        found
    }

    /// As [`Self::of`], where that of the one before `id` is known.
    fn after_former(&mut self, id: u64) -> Rc<[u64]> {
        let execution = self.executions.get(id);
        let former = execution.map(|execution| execution.former);
        let Some((former, kind)) = former.and_then(|former| Some((former, self.kind(former)?)))
        else {
            return Rc::from([]);
        };
        let before = self.known.get(&former).map_or(&[][..], |before| before);
        let others = before
            .iter()
            .filter(|other| self.kind_of.get(other) != Some(&kind));
        std::iter::once(former)
            .chain(others.copied())
            .take(MAX_FORMERS)
            .collect()
    }

    fn kind(&mut self, id: u64) -> Option<usize> {
        if let Some(&kind) = self.kind_of.get(&id) {
            return Some(kind);
        }
        let execution = self.executions.get(id)?;
        let kind = Kind {
            program: program(execution),
            parent: self.executions.get(execution.parent).map(program),
            user: (execution.uid, execution.gid, execution.login_uid),
            cgroup_id: execution.cgroup_id,
            file: (execution.device, execution.inode),
        };
        let next = self.kinds.len();
        let kind = *self.kinds.entry(kind).or_insert(next);
        self.kind_of.insert(id, kind);
        Some(kind)
    }
}
