//! Globs as sets of names: which holds which, and a name that is in both.
//!
//! One deterministic automaton for all globs of both sides tells, at the end of each name, which of
//! them match it. The answers are exact.

use std::collections::{HashMap, HashSet, VecDeque};

use globset::Glob;
use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, start, syntax},
};

/// An automaton over bytes.
pub(super) type Dfa = dense::DFA<Vec<u32>>;

/// Bytes that an automaton may take, and as many while it is built.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// The automaton of some globs would be too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// How two sets of names lie to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// No name is in both.
    Disjoint,
    /// They are the same.
    Same,
    /// All of the left one is in the right one, and the right one has more.
    Narrower,
    /// All of the right one is in the left one, and the left one has more.
    Wider,
    /// Each has names of its own, and some are in both; such a name, where one can be told.
    Crossing(Option<String>),
}

/// What a glob means besides the names that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// Nothing.
    Name,
    /// The tree below a path as well.
    Tree,
}

/// Compares globs, and remembers.
#[derive(Default)]
pub(super) struct Comparer {
    known: HashMap<(String, String, Reach), Fit>,
}

impl Comparer {
    /// How what any of `left` matches lies to what any of `right` matches.
    pub(super) fn fit(&mut self, left: &[&Glob], right: &[&Glob], reach: Reach) -> Fit {
        let apart = left.iter().all(|a| {
            right
                .iter()
                .all(|b| clearly_apart(a.glob(), b.glob(), reach))
        });
        if apart {
            return Fit::Disjoint;
        }
        let text = |globs: &[&Glob]| -> String {
            let texts: Vec<&str> = globs.iter().map(|glob| glob.glob()).collect();
            texts.join("\0")
        };
        let key = (text(left), text(right), reach);
        if key.0 == key.1 {
            return Fit::Same;
        }
        self.known
            .entry(key)
            // What is too large to compare is not known to be apart.
            .or_insert_with(|| compare(left, right, reach).unwrap_or(Fit::Crossing(None)))
            .clone()
    }
}

/// Whether the literal ends of two globs show that no name is in both.
fn clearly_apart(a: &str, b: &str, reach: Reach) -> bool {
    let is_meta = |c: char| "*?[]{}\\".contains(c);
    let prefix = |text: &str| -> usize { text.find(is_meta).unwrap_or(text.len()) };
    let (start_a, start_b) = (
        a.get(..prefix(a)).unwrap_or_default(),
        b.get(..prefix(b)).unwrap_or_default(),
    );
    if !start_a.starts_with(start_b) && !start_b.starts_with(start_a) {
        return true;
    }
    if reach == Reach::Tree || [a, b].iter().any(|text| text.contains(['[', '{', '\\'])) {
        return false;
    }
    // `**/` may stand for nothing, its slash included.
    let suffix = |text: &str| -> String {
        let end = text.rfind(is_meta).map_or(0, |index| index + 1);
        let end = text.get(end..).unwrap_or_default();
        end.trim_start_matches('/').to_owned()
    };
    if !a.contains(is_meta) && !b.contains(is_meta) {
        return a != b;
    }
    let (end_a, end_b) = (suffix(a), suffix(b));
    !end_a.ends_with(&end_b) && !end_b.ends_with(&end_a)
}

fn compare(left: &[&Glob], right: &[&Glob], reach: Reach) -> Result<Fit, TooLarge> {
    let patterns: Vec<String> = left
        .iter()
        .chain(right)
        .map(|glob| match reach {
            Reach::Name => glob.regex().to_owned(),
            Reach::Tree => match glob.regex().strip_suffix('$') {
                Some(start) => format!("{start}(?:/.*)?$"),
                None => glob.regex().to_owned(),
            },
        })
        .collect();
    let dfa = build(&patterns, MAX_BYTES)?;
    let (mut only_left, mut only_right, mut both) = (false, false, None);
    let mut seen = HashSet::new();
    // Breadth first: the first name that is found is a shortest one.
    let first = start_of(&dfa)?;
    let mut queue = VecDeque::from([(first, String::new())]);
    let bytes = readable_bytes(&dfa);
    seen.insert(first);
    while let Some((state, name)) = queue.pop_front() {
        let matched = matched_at_end(&dfa, state);
        let in_left = matched.iter().any(|&pattern| pattern < left.len());
        let in_right = matched.iter().any(|&pattern| pattern >= left.len());
        match (in_left, in_right) {
            (true, true) if both.is_none() => both = Some(name.clone()),
            (true, false) => only_left = true,
            (false, true) => only_right = true,
            (true, true) | (false, false) => {}
        }
        if only_left && only_right && both.is_some() {
            break;
        }
        for &byte in &bytes {
            let next = dfa.next_state(state, byte);
            if !dfa.is_dead_state(next) && seen.insert(next) {
                let mut longer = name.clone();
                longer.push(char::from(byte));
                queue.push_back((next, longer));
            }
        }
    }
    Ok(match (both, only_left, only_right) {
        (None, _, _) => Fit::Disjoint,
        (Some(_), false, false) => Fit::Same,
        (Some(_), false, true) => Fit::Narrower,
        (Some(_), true, false) => Fit::Wider,
        (Some(name), true, true) => Fit::Crossing(Some(name)),
    })
}

/// An automaton that tells at the end of a text which of `patterns`, regular expressions over bytes,
/// match the whole of it. Neither it nor what it is made from takes more than `max_bytes`.
pub(super) fn build(patterns: &[String], max_bytes: usize) -> Result<Dfa, TooLarge> {
    dense::Builder::new()
        .configure(
            dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Anchored)
                .accelerate(false)
                .dfa_size_limit(Some(max_bytes))
                .determinize_size_limit(Some(max_bytes)),
        )
        // As globset has it.
        .syntax(
            syntax::Config::new()
                .unicode(false)
                .utf8(false)
                .dot_matches_new_line(true),
        )
        .thompson(
            thompson::Config::new()
                .utf8(false)
                .nfa_size_limit(Some(max_bytes)),
        )
        .build_many(patterns)
        .map_err(|_too_large| TooLarge)
}

/// The state before the first byte.
pub(super) fn start_of(dfa: &Dfa) -> Result<StateID, TooLarge> {
    dfa.start_state(&start::Config::new().anchored(Anchored::Yes))
        .map_err(|_no_start| TooLarge)
}

/// The patterns that match a text which ends in `state`, in their order.
pub(super) fn matched_at_end(dfa: &Dfa, state: StateID) -> Vec<usize> {
    let end = dfa.next_eoi_state(state);
    if !dfa.is_match_state(end) {
        return Vec::new();
    }
    let mut patterns: Vec<usize> = (0..dfa.match_len(end))
        .map(|index| dfa.match_pattern(end, index).as_usize())
        .collect();
    patterns.sort_unstable();
    patterns
}

/// One byte of each class, letters first. A class of unprintable bytes alone is stood for by one of
/// them.
fn readable_bytes(dfa: &Dfa) -> Vec<u8> {
    let order = (b'a'..=b'z')
        .chain(b'0'..=b'9')
        .chain(b'!'..=b'~')
        .chain(0..=u8::MAX);
    let mut seen = HashSet::new();
    order
        // No name has it.
        .filter(|&byte| byte != 0)
        .filter(|&byte| seen.insert(dfa.byte_classes().get(byte)))
        .collect()
}

#[cfg(test)]
mod tests;
