//! Selectors to what finds them: conditions on cgroups, facts, and the automaton over executables.

use std::collections::HashMap;

use agentguard_common::{
    capacity::MAX_CHOICES,
    cgroup::Rank,
    fact::{MAX_CHAIN, ON_HOST},
};

use super::{
    automaton::Globs,
    fact::{Facts, Mask, of_cgroup},
    precedence::{self, Draft, lone_slice, rank_of},
};
use crate::policy::{
    HostFacts, Identity, Policy,
    compiled::{self, BUILT_IN, Executables},
    condition::{Condition, list_text},
    diagnostic::{Diagnostic, Diagnostics},
    language::MAX_BYTES,
    selection::{Automaton, Choice, ExecutableSet, Selection},
    source::Place,
};

/// An executable selector on its way into the sets.
struct Candidate<'a> {
    place: &'a Place,
    globs: Vec<usize>,
    mask: Mask,
    choice: Choice,
}

/// The selectors of each identity of the policy, in the order of their names.
pub(super) fn compile(
    policy: &Policy,
    host: &HostFacts,
    facts: &mut Facts<'_>,
    diagnostics: &mut Diagnostics,
) -> Vec<Vec<compiled::Selector>> {
    let mut drafts = Vec::new();
    for (index, (name, identity)) in policy.identities.iter().enumerate() {
        for (number, selector) in identity.selectors.iter().enumerate() {
            drafts.push(Draft::new(name, (index, number), identity, selector, host));
        }
    }
    let orders: HashMap<(usize, usize), u32> = precedence::order(drafts, host, diagnostics)
        .into_iter()
        .zip(0..)
        .collect();
    let mut choosing = 0;
    let mut compiled = Vec::new();
    for (index, (name, identity)) in policy.identities.iter().enumerate() {
        let requires = facts.of_requires(identity.requires.as_ref(), diagnostics);
        let mut selectors: Vec<compiled::Selector> = identity
            .selectors
            .iter()
            .enumerate()
            .map(|(number, selector)| {
                let order = orders.get(&(index, number)).copied().unwrap_or(u32::MAX);
                compile_selector(selector, requires, order, facts, diagnostics)
            })
            .collect();
        if identity.claimable_by_unit {
            selectors.push(claim(name, identity, requires));
        }
        for (selector, written) in selectors.iter().zip(&identity.selectors) {
            let everywhere = selector.here.is_empty() && selector.executables.is_none();
            choosing += u32::from(everywhere);
            if everywhere && choosing == MAX_CHAIN + 1 {
                diagnostics.push(
                    Diagnostic::error(format!(
                        "more than {MAX_CHAIN} selectors have no key but users, groups and logins"
                    ))
                    .at(written.place.clone())
                    .help("name the users of one identity in one list, or add a cgroup or unit"),
                );
            }
        }
        compiled.push(selectors);
    }
    compiled
}

fn compile_selector(
    selector: &crate::policy::Selector,
    requires: Mask,
    order: u32,
    facts: &mut Facts<'_>,
    diagnostics: &mut Diagnostics,
) -> compiled::Selector {
    let conditions = &selector.conditions;
    let place = &selector.place;
    let mut here = of_cgroup(conditions);
    if let Some(slice) = lone_slice(conditions) {
        here = vec![Condition::OwnSlice(slice.compile_matcher())];
    }
    let mut mask = facts.of_user(conditions, place, diagnostics).and(requires);
    let mut texts: Vec<String> = here.iter().map(Condition::text).collect();
    let executables = selector.executables.as_ref().map(|written| {
        // By the time a program starts, cgroups are facts of the process.
        mask = mask.and(facts.of_cgroup(conditions, place));
        here.clear();
        if conditions.container.is_none() {
            mask.required |= ON_HOST;
        }
        if let Some(sha256) = &written.sha256 {
            mask.required |= facts.of_hash(&written.globs, sha256, place);
        }
        texts.insert(0, format!("executable = {}", list_text(&written.globs)));
        Executables {
            globs: written.globs.clone(),
            inherit: written.inherit,
        }
    });
    texts.extend(user_texts(conditions));
    compiled::Selector {
        text: texts.join(", "),
        rank: rank_of(selector),
        order,
        here,
        executables,
        required: mask.required,
        forbidden: mask.forbidden,
        location: place.location(),
    }
}

fn user_texts(conditions: &crate::policy::Conditions) -> Vec<String> {
    let accounts = |key: &str, accounts: &Option<Vec<crate::policy::Account>>| {
        let texts: Vec<String> = accounts
            .as_ref()?
            .iter()
            .map(|account| match &account.name {
                crate::policy::AccountName::Name(name) => format!("{name:?}"),
                crate::policy::AccountName::Number(number) => number.to_string(),
            })
            .collect();
        Some(match texts.as_slice() {
            [text] => format!("{key} = {text}"),
            _ => format!("{key} = [{}]", texts.join(", ")),
        })
    };
    [
        accounts("user", &conditions.users),
        accounts("group", &conditions.groups),
        conditions.login.map(|login| format!("login = {login}")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a unit claims for itself comes after all that others say of the unit.
fn claim(name: &str, identity: &Identity, requires: Mask) -> compiled::Selector {
    let condition = Condition::Claim(name.to_owned());
    compiled::Selector {
        text: condition.text(),
        rank: Rank::Unit,
        order: u32::MAX,
        here: vec![condition],
        executables: None,
        required: requires.required,
        forbidden: requires.forbidden,
        location: identity.place.location(),
    }
}

/// The automaton and its sets.
pub(super) fn compile_executables(
    policy: &Policy,
    selectors: &[Vec<compiled::Selector>],
    facts: &Facts<'_>,
    selection: &mut Selection,
    diagnostics: &mut Diagnostics,
) {
    let mut globs = Globs::default();
    let mut candidates: Vec<(u32, Candidate<'_>)> = Vec::new();
    for (index, (identity, compiled)) in policy.identities.values().zip(selectors).enumerate() {
        for (number, (written, selector)) in identity.selectors.iter().zip(compiled).enumerate() {
            let Some(executables) = &selector.executables else {
                continue;
            };
            let candidate = Candidate {
                place: &written.place,
                globs: globs.add(&executables.globs),
                mask: Mask {
                    required: selector.required,
                    forbidden: selector.forbidden,
                },
                choice: Choice {
                    required: selector.required,
                    forbidden: selector.forbidden,
                    identity: BUILT_IN.len() + index,
                    inherit: executables.inherit,
                    selector: number,
                },
            };
            candidates.push((selector.order, candidate));
        }
    }
    candidates.sort_by_key(|(order, _)| *order);
    let parents: Vec<(Vec<usize>, u64)> = facts
        .parents()
        .map(|(parents, fact)| (globs.add(parents), fact))
        .collect();
    let (automaton, sets) = globs.compile(MAX_BYTES).unwrap_or_else(|error| {
        diagnostics.push(error);
        (Automaton::default(), Vec::new())
    });
    selection.automaton = automaton;
    let mut too_long = None;
    for set in &sets {
        let is_in = |globs: &[usize]| globs.iter().any(|glob| set.binary_search(glob).is_ok());
        let mut chosen: Vec<&Candidate<'_>> = Vec::new();
        for (_, candidate) in candidates.iter().filter(|(_, found)| is_in(&found.globs)) {
            // Where an earlier one holds whenever this one does, this one is never reached.
            if !chosen
                .iter()
                .any(|first| candidate.mask.implies(first.mask))
            {
                chosen.push(candidate);
            }
        }
        if let Some(candidate) = chosen.get(MAX_CHAIN as usize) {
            too_long = Some(candidate.place);
        }
        selection.sets.push(ExecutableSet {
            own_facts: 0,
            parent_facts: parents
                .iter()
                .filter(|(globs, _)| is_in(globs))
                .fold(0, |facts, (_, fact)| facts | fact),
            choices: chosen
                .into_iter()
                .map(|candidate| candidate.choice.clone())
                .collect(),
        });
    }
    if let Some(place) = too_long {
        diagnostics.push(
            Diagnostic::error(format!(
                "more than {MAX_CHAIN} selectors with conditions mean the same executable"
            ))
            .at(place.clone())
            .help("give the identities executables of their own, or join their conditions"),
        );
    }
    let choices: usize = selection.sets.iter().map(|set| set.choices.len()).sum();
    if choices > MAX_CHOICES as usize {
        diagnostics.push(
            Diagnostic::error(format!(
                "overlapping executables lead to {choices} choices of identity; {MAX_CHOICES} fit"
            ))
            .help("let fewer globs over executables overlap"),
        );
    }
}
