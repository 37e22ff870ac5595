//! Which rules an identity has, and its variants: the same identity with the rules whose conditions
//! hold.

use std::collections::{BTreeSet, HashMap};

use super::{
    Classes,
    cell::{ClassedRule, Profile},
    fact::Mask,
};
use crate::policy::{
    Identity, Policy,
    compiled::ConditionalRule,
    diagnostic::{Diagnostic, Diagnostics},
};

/// Distinct conditions that the rules of one identity may have: each doubles its variants.
const MAX_CONDITIONS: usize = 4;

/// Roles, and the conditions that hold.
type Key<'a> = (Vec<&'a String>, Vec<Mask>);

/// Numbers for sets of rules; 0 is the empty one.
pub(super) struct Profiles<'a> {
    numbers: HashMap<Key<'a>, u32>,
}

impl<'a> Profiles<'a> {
    pub(super) fn new(policy: &'a Policy, classes: &Classes) -> Self {
        let mut numbers = HashMap::from([((Vec::new(), Vec::new()), 0)]);
        for identity in policy.identities.values() {
            let roles = roles_of(identity);
            for conditions in variants(classes, &roles).into_iter().chain([Vec::new()]) {
                let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                numbers.entry((roles.clone(), conditions)).or_insert(next);
            }
        }
        Self { numbers }
    }

    /// The profile of `identity` where `conditions` hold.
    pub(super) fn of(&self, identity: &'a Identity, conditions: &[Mask]) -> u32 {
        let key = (roles_of(identity), conditions.to_vec());
        self.numbers.get(&key).copied().unwrap_or(0)
    }

    /// Each with its rules.
    pub(super) fn by_number<'c>(&self, classes: &'c Classes) -> Vec<(u32, Profile<'c>)> {
        let mut profiles: Vec<_> = self
            .numbers
            .iter()
            .map(|((roles, conditions), &number)| {
                let rules = classes
                    .profile(roles.iter().copied())
                    .into_iter()
                    .filter(|rule| applies(rule, conditions))
                    .collect();
                (number, rules)
            })
            .collect();
        profiles.sort_unstable_by_key(|&(number, _)| number);
        profiles
    }
}

/// Whether a rule has no condition, or one of these.
pub(super) fn applies(rule: &ClassedRule, conditions: &[Mask]) -> bool {
    rule.condition == Mask::default() || conditions.contains(&rule.condition)
}

fn roles_of(identity: &Identity) -> Vec<&String> {
    identity.roles.keys().collect()
}

fn conditions_of(classes: &Classes, roles: &[&String]) -> BTreeSet<Mask> {
    classes
        .profile(roles.iter().copied())
        .into_iter()
        .map(|rule| rule.condition)
        .filter(|&condition| condition != Mask::default())
        .collect()
}

/// The rules of `identity` that have conditions.
pub(super) fn conditional(classes: &Classes, identity: &Identity) -> Vec<ConditionalRule> {
    classes
        .profile(roles_of(identity))
        .into_iter()
        .filter(|rule| rule.condition != Mask::default())
        .map(|rule| ConditionalRule {
            number: rule.number,
            required: rule.condition.required,
            forbidden: rule.condition.forbidden,
        })
        .collect()
}

/// The combinations of conditions that can hold together and alone, those with the most first.
pub(super) fn variants_of(classes: &Classes, identity: &Identity) -> Vec<Vec<Mask>> {
    variants(classes, &roles_of(identity))
}

fn variants(classes: &Classes, roles: &[&String]) -> Vec<Vec<Mask>> {
    let conditions: Vec<Mask> = conditions_of(classes, roles).into_iter().collect();
    if conditions.len() > MAX_CONDITIONS {
        return Vec::new();
    }
    let mut combinations: Vec<Vec<Mask>> = (1u32..1 << conditions.len())
        .map(|chosen| {
            conditions
                .iter()
                .enumerate()
                .filter(|(index, _)| chosen & 1 << index != 0)
                .map(|(_, &condition)| condition)
                .collect::<Vec<_>>()
        })
        .filter(|chosen| {
            let all = join(chosen);
            // Where these hold, a condition that they imply holds too: another combination.
            let closed = conditions
                .iter()
                .all(|condition| chosen.contains(condition) || !all.implies(*condition));
            all.is_possible() && closed
        })
        .collect();
    combinations.sort_by_key(|chosen| std::cmp::Reverse(chosen.len()));
    combinations
}

/// All of some conditions.
pub(super) fn join(conditions: &[Mask]) -> Mask {
    conditions
        .iter()
        .fold(Mask::default(), |all, &condition| all.and(condition))
}

/// Reports identities whose rules have too many conditions.
pub(super) fn check(policy: &Policy, classes: &Classes, diagnostics: &mut Diagnostics) {
    for (name, identity) in &policy.identities {
        let count = conditions_of(classes, &roles_of(identity)).len();
        if count > MAX_CONDITIONS {
            diagnostics.push(
                Diagnostic::error(format!(
                    "the rules of identity `{name}` have {count} distinct conditions; \
                     {MAX_CONDITIONS} fit"
                ))
                .at(identity.place.clone())
                .help("let rules share conditions, or make two identities of it"),
            );
        }
    }
}
