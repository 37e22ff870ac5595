//! All globs over executables to one deterministic automaton, and what its ends mean.

use std::collections::{BTreeMap, HashMap, VecDeque};

use agentguard_common::{
    capacity::{MAX_EXECUTABLE_SETS, MAX_TRANSITIONS},
    executable::{END, MAX_STATES, START, transition},
};
use globset::Glob;
use regex_automata::dfa::Automaton as _;

use crate::policy::{
    diagnostic::Diagnostic,
    language::{TooLarge, build, matched_at_end, start_of},
    selection::Automaton,
};

/// Globs, each once, by number.
#[derive(Default)]
pub(super) struct Globs {
    numbers: HashMap<String, usize>,
    regexes: Vec<String>,
}

impl Globs {
    /// The numbers of some globs.
    pub(super) fn add(&mut self, globs: &[Glob]) -> Vec<usize> {
        globs
            .iter()
            .map(|glob| {
                let next = self.numbers.len();
                let number = *self.numbers.entry(glob.glob().to_owned()).or_insert(next);
                if number == next {
                    self.regexes.push(glob.regex().to_owned());
                }
                number
            })
            .collect()
    }

    /// The automaton, and the globs that each of its sets stands for: set number `n` at index
    /// `n - 1`. It takes no more than `max_bytes` while it is made.
    pub(super) fn compile(
        &self,
        max_bytes: usize,
    ) -> Result<(Automaton, Vec<Vec<usize>>), Diagnostic> {
        if self.regexes.is_empty() {
            return Ok((Automaton::default(), Vec::new()));
        }
        let count = self.regexes.len();
        let too_large = |what: String| {
            Diagnostic::error(what).help(
                "write executables out instead of `**` and `*` in the middle of a path, or match \
                 fewer of them",
            )
        };
        let dfa = build(&self.regexes, max_bytes).map_err(|TooLarge| {
            too_large(format!(
                "the automaton over {count} globs of executables is larger than {} MiB",
                max_bytes >> 20
            ))
        })?;
        let start = start_of(&dfa).map_err(|TooLarge| {
            too_large(format!(
                "the automaton over {count} globs of executables has no start"
            ))
        })?;
        let mut automaton = Automaton::default();
        let mut bytes = BTreeMap::new();
        for byte in 0..=u8::MAX {
            let class = dfa.byte_classes().get(byte);
            automaton.classes[usize::from(byte)] = class;
            bytes.insert(class, byte);
        }
        if bytes.contains_key(&END) {
            return Err(too_large(format!(
                "{count} globs of executables tell too many bytes apart"
            )));
        }
        let mut sets: HashMap<Vec<usize>, u32> = HashMap::new();
        let mut numbers = HashMap::from([(start, START)]);
        let mut queue = VecDeque::from([start]);
        while let Some(state) = queue.pop_front() {
            let number = numbers.get(&state).copied().unwrap_or(START);
            let matched = matched_at_end(&dfa, state);
            if !matched.is_empty() {
                let next = u32::try_from(sets.len() + 1).unwrap_or(u32::MAX);
                let set = *sets.entry(matched).or_insert(next);
                automaton.transitions.push((transition(number, END), set));
            }
            for (&class, &byte) in &bytes {
                let following = dfa.next_state(state, byte);
                if dfa.is_dead_state(following) {
                    continue;
                }
                let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
                let following = *numbers.entry(following).or_insert_with(|| {
                    queue.push_back(following);
                    next
                });
                automaton
                    .transitions
                    .push((transition(number, class), following));
            }
            if automaton.transitions.len() > MAX_TRANSITIONS as usize
                || numbers.len() >= MAX_STATES as usize
            {
                return Err(too_large(format!(
                    "the automaton over {count} globs of executables has more than \
                     {MAX_TRANSITIONS} transitions"
                )));
            }
        }
        if sets.len() > MAX_EXECUTABLE_SETS as usize {
            return Err(too_large(format!(
                "{count} globs of executables overlap in {} ways; {MAX_EXECUTABLE_SETS} fit",
                sets.len()
            )));
        }
        automaton.transitions.sort_unstable();
        let mut by_number: Vec<(u32, Vec<usize>)> = sets
            .into_iter()
            .map(|(globs, number)| (number, globs))
            .collect();
        by_number.sort_unstable();
        Ok((
            automaton,
            by_number.into_iter().map(|(_, globs)| globs).collect(),
        ))
    }
}

#[cfg(test)]
mod tests;
