//! What the compiler hands on of selectors: how processes become identities.
//!
//! Two ways lead from a process to an identity. By **cgroup**: [`crate::identity::select`] finds whose
//! a cgroup is, and what other identities the facts of a process may choose there. By **executable**:
//! one automaton over the paths of executables and scripts finds a set, and the set has a chain of
//! choices. Users, logins, parents and the like are facts: bits that hold for a process or not.

use std::path::PathBuf;

use agentguard_common::{
    executable::find_set,
    fact::{FIRST_NAMED, LOGIN, ON_HOST},
    identity::AgentId,
    process::FLAG_INHERIT,
};

use super::condition::Condition;
use crate::identity::context::Context;

/// The selectors of a policy, compiled.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// What each fact from [`FIRST_NAMED`] on stands for, in the order of their bits.
    pub facts: Vec<Fact>,
    /// Facts that hold for users and groups.
    pub users: Vec<UserFacts>,
    /// Over the paths of executables and scripts.
    pub automaton: Automaton,
    /// What the automaton finds: set number `n` is at index `n - 1`.
    pub sets: Vec<ExecutableSet>,
    /// Files that must have a certain hash.
    pub hashes: Vec<HashFacts>,
}

/// What a fact stands for.
#[derive(Clone, Debug)]
pub struct Fact {
    /// The condition in the words of the policy: `user = "deploy"`.
    pub text: String,
    /// The condition.
    pub condition: Condition,
}

/// Facts that hold for a user or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserFacts {
    /// `KIND_USER` or `KIND_GROUP`.
    pub kind: u32,
    /// Its number.
    pub id: u32,
    /// The facts.
    pub facts: u64,
}

/// A deterministic automaton over bytes, as [`agentguard_common::executable`] runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Automaton {
    /// Class of each byte, all below [`agentguard_common::executable::END`].
    pub classes: [u8; 256],
    /// Key and following state, or set number at the end of a path; sorted.
    pub transitions: Vec<(u32, u32)>,
}

/// What one path can match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecutableSet {
    /// Facts of the process that runs it.
    pub own_facts: u64,
    /// Facts of the children of that process, if that process runs one of the host's own files.
    pub parent_facts: u64,
    /// The first whose conditions hold is chosen.
    pub choices: Vec<Choice>,
}

/// An identity and its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// All of these facts hold.
    pub required: u64,
    /// None of these facts holds.
    pub forbidden: u64,
    /// Index in [`super::compiled::Compiled::identities`].
    pub identity: usize,
    /// Kept over the next executable that matches nothing.
    pub inherit: bool,
    /// Index of the selector in its identity, to say why.
    pub selector: usize,
}

/// The facts of files with certain contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashFacts {
    /// Where such files are looked for when the policy is loaded: literal paths.
    pub paths: Vec<PathBuf>,
    /// SHA-256 of the contents; any of these.
    pub sha256: Vec<[u8; 32]>,
    /// The facts.
    pub facts: u64,
}

impl Default for Automaton {
    fn default() -> Self {
        Self {
            classes: [0; 256],
            transitions: Vec::new(),
        }
    }
}

impl Automaton {
    /// What the transition with `key` leads to.
    #[must_use]
    pub fn next(&self, key: u32) -> Option<u32> {
        let index = self
            .transitions
            .binary_search_by_key(&key, |&(key, _)| key)
            .ok()?;
        self.transitions.get(index).map(|&(_, next)| next)
    }

    /// Number of the set that `path` matches, or `NO_SET`, as the kernel finds it.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> u32 {
        find_set(
            path,
            |byte| self.classes.get(usize::from(byte)).copied().unwrap_or(0),
            |key| self.next(key),
        )
    }
}

impl Choice {
    /// As the kernel keeps it, with the number of its identity and of the choice after it.
    #[must_use]
    pub fn encode(&self, identity: AgentId, next: u32) -> agentguard_common::fact::Choice {
        agentguard_common::fact::Choice {
            required: self.required,
            forbidden: self.forbidden,
            identity,
            flags: if self.inherit { FLAG_INHERIT } else { 0 },
            next,
            reserved: 0,
        }
    }
}

impl Selection {
    /// The facts that are a matter of cgroups: what the kernel knows of them, it has from their labels.
    #[must_use]
    pub fn cgroup_facts(&self) -> u64 {
        self.bits(|condition| condition.is_of_cgroup())
    }

    /// The facts that are a matter of users and groups.
    #[must_use]
    pub fn user_facts(&self) -> u64 {
        self.bits(|condition| matches!(condition, Condition::Users(_) | Condition::Groups(_)))
    }

    /// The facts that hold for the processes of the last cgroup of `chain`. What holds for a cgroup
    /// holds for all below it.
    #[must_use]
    pub fn facts_of(&self, chain: &[&Context]) -> u64 {
        self.bits(|condition| {
            chain
                .iter()
                .any(|context| condition.holds(context) == Some(true))
        })
    }

    fn bits(&self, holds: impl Fn(&Condition) -> bool) -> u64 {
        (FIRST_NAMED..)
            .zip(&self.facts)
            .filter(|(_, fact)| holds(&fact.condition))
            .fold(0, |facts, (bit, _)| facts | 1 << bit)
    }

    /// The set that `path` of an executable matches.
    #[must_use]
    pub fn set_of(&self, path: &[u8]) -> Option<&ExecutableSet> {
        let number = usize::try_from(self.automaton.find(path)).ok()?;
        self.sets.get(number.checked_sub(1)?)
    }

    /// The conditions among `facts`, in the words of the policy.
    pub fn describe(&self, facts: u64) -> impl Iterator<Item = &str> {
        let fixed = [
            (LOGIN, "login = true"),
            (ON_HOST, "on the host's own files"),
        ];
        let named = (FIRST_NAMED..)
            .zip(&self.facts)
            .map(|(bit, fact)| (1 << bit, fact.text.as_str()));
        fixed
            .into_iter()
            .chain(named)
            .filter(move |(bit, _)| facts & bit != 0)
            .map(|(_, text)| text)
    }
}
