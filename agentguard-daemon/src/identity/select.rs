//! Whom a cgroup belongs to, and whom its processes may become instead. The order is that of
//! `policy/compile/precedence.rs`.

use std::cmp::Reverse;

use agentguard_common::{cgroup::Rank, fact::MAX_CHAIN};

use super::{built_in, context::Context};
use crate::policy::{
    compiled::{Compiled, Selector, UNKNOWN, UNKNOWN_AGENT},
    selection::Choice,
};

/// Why a cgroup belongs to an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// `agentguard run` made it.
    Launch,
    /// A selector of the identity matches.
    Selector(SelectorId),
    /// It is in the slice of the agents, and no identity claims it.
    AgentsSlice,
    /// It is what a built-in identity stands for, and no identity claims it.
    BuiltIn,
    /// Nobody knows it.
    Nothing,
}

/// Which selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorId {
    /// Index of its identity in [`Compiled::identities`].
    pub identity: usize,
    /// Its index among those of the identity.
    pub number: usize,
}

/// Whom a cgroup belongs to.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Index in [`Compiled::identities`] of who it is where none of `choices` holds.
    pub index: usize,
    /// Rank of that.
    pub rank: Rank,
    /// Why.
    pub ground: Ground,
    /// Index in the chain of the cgroup that decided: the last one, or one that it inherits from.
    pub at: usize,
    /// Facts that hold for its processes because they are in it.
    pub facts: u64,
    /// Whom its processes are instead: the first whose conditions hold.
    pub choices: Vec<Choice>,
    /// The selectors that mean the cgroup and come before that: a condition of each does not hold, or
    /// is a matter of processes.
    pub before: Vec<SelectorId>,
    /// Whether there were more choices than a chain in the kernel can have. The least preferred ones
    /// are then left out.
    pub cut: bool,
}

impl Selected {
    /// Whether a cgroup needs a label of its own below one that is labelled as `above` says.
    #[must_use]
    pub fn differs(&self, above: &Self) -> bool {
        let label = |selected: &Self| (selected.index, selected.rank, selected.facts);
        label(self) != label(above) || self.choices != above.choices
    }
}

/// A selector without executables whose cgroup is in the chain.
struct Candidate<'a> {
    id: SelectorId,
    selector: &'a Selector,
    /// Index in the chain of the deepest cgroup that it matches.
    at: usize,
}

/// Whom the last cgroup of `chain` belongs to, and all below it that says nothing else. `chain` begins
/// with the cgroup root.
#[must_use]
pub fn select(compiled: &Compiled, chain: &[&Context]) -> Selected {
    let facts = compiled.selection.facts_of(chain);
    let of_cgroup = compiled.selection.cgroup_facts();
    let mut choices: Vec<Choice> = Vec::new();
    let mut found = None;
    let mut before = Vec::new();
    for candidate in candidates(compiled, chain) {
        let selector = candidate.selector;
        let lacking = selector.required & of_cgroup & !facts;
        if lacking | (selector.forbidden & of_cgroup & facts) != 0 {
            before.push(candidate.id);
            continue;
        }
        let choice = Choice {
            required: selector.required & !of_cgroup,
            forbidden: selector.forbidden & !of_cgroup,
            identity: candidate.id.identity,
            inherit: false,
            selector: candidate.id.number,
        };
        if choice.required | choice.forbidden == 0 {
            found = Some(candidate);
            break;
        }
        before.push(candidate.id);
        // Where an earlier one holds whenever this one does, this one is never reached.
        let reached = choices.iter().all(|first| {
            choice.required & first.required != first.required
                || choice.forbidden & first.forbidden != first.forbidden
        });
        if reached {
            choices.push(choice);
        }
    }
    let (index, rank, ground, at) = match found {
        Some(candidate) => (
            candidate.id.identity,
            candidate.selector.rank,
            Ground::Selector(candidate.id),
            candidate.at,
        ),
        None => fall_back(compiled, chain),
    };
    while choices.last().is_some_and(|last| last.identity == index) {
        choices.pop();
    }
    let cut = choices.len() > MAX_CHAIN as usize;
    choices.truncate(MAX_CHAIN as usize);
    Selected {
        index,
        rank,
        ground,
        at,
        facts,
        choices,
        before,
        cut,
    }
}

/// The selectors whose cgroup is in `chain`, the best first; whether their other conditions hold is
/// not looked at.
fn candidates<'a>(compiled: &'a Compiled, chain: &[&Context]) -> Vec<Candidate<'a>> {
    let agents = agents_slice_in(compiled, chain).unwrap_or(0);
    let mut found = Vec::new();
    for (identity, compiled) in compiled.identities.iter().enumerate() {
        for (number, selector) in compiled.selectors.iter().enumerate() {
            if selector.executables.is_some() {
                continue;
            }
            let at = if selector.here.is_empty() {
                Some(0)
            } else {
                // The agents slice is not part of what is around it: who means a cgroup above it
                // hardly means unknown agents.
                chain
                    .iter()
                    .skip(agents)
                    .rposition(|context| matches(selector, context))
                    .map(|at| at + agents)
            };
            found.extend(at.map(|at| Candidate {
                id: SelectorId { identity, number },
                selector,
                at,
            }));
        }
    }
    found.sort_by_key(|candidate| {
        let selector = candidate.selector;
        // Sessions are no places: the nearest one is the only one.
        let near = if selector.rank == Rank::Session {
            0
        } else {
            candidate.at
        };
        let place = (candidate.id.identity, candidate.id.number);
        (Reverse(selector.rank), Reverse(near), selector.order, place)
    });
    found
}

fn matches(selector: &Selector, context: &Context) -> bool {
    selector
        .here
        .iter()
        .all(|condition| condition.holds(context) == Some(true))
}

/// The built-in identity of a cgroup that no selector means: the nearest one decides.
fn fall_back(compiled: &Compiled, chain: &[&Context]) -> (usize, Rank, Ground, usize) {
    let agents = agents_slice_in(compiled, chain);
    for (at, context) in chain.iter().enumerate().rev() {
        if agents == Some(at) {
            return (UNKNOWN_AGENT, Rank::Default, Ground::AgentsSlice, at);
        }
        if agents.is_none()
            && let Some((index, rank)) = built_in::of(context)
        {
            return (index, rank, Ground::BuiltIn, at);
        }
    }
    (UNKNOWN, Rank::Default, Ground::Nothing, 0)
}

fn agents_slice_in(compiled: &Compiled, chain: &[&Context]) -> Option<usize> {
    let path = slice_path(&compiled.agents_slice);
    chain.iter().position(|context| context.path == path)
}

/// Where systemd puts a slice: `a-b.slice` is in `a.slice`.
pub(crate) fn slice_path(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let parents = stem
        .match_indices('-')
        .filter_map(|(dash, _)| stem.get(..dash))
        .map(|parent| format!("/{parent}.slice"));
    parents.chain([format!("/{slice}")]).collect()
}

#[cfg(test)]
mod tests;
