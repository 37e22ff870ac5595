//! Why a process is nobody else, in the words of the policy: for people who ask.
#![forbid(unsafe_code)]

use agentguard_common::{
    audit::{FACTS_OF_PROCESS, FACTS_OF_USER},
    fact::LOGIN,
};

use super::select::{Ground, Selected, SelectorId};
use crate::policy::{
    compiled::{Compiled, ConditionalRule, Selector},
    selection::Selection,
};

/// What is known of a process besides its cgroup.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process<'a> {
    /// What holds for it now.
    pub facts: Known,
    /// What held as it started its executable: what that made of it, it stays.
    pub facts_at_exec: u64,
    /// Path of its executable.
    pub executable: &'a [u8],
    /// Path of the script that its executable interprets.
    pub script: Option<&'a [u8]>,
    /// The identity that it has from an executable before this one.
    pub inherited: Option<usize>,
}

/// Facts, and of which it is known whether they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// Those that hold.
    pub facts: u64,
    /// Those that were looked at.
    pub looked_at: u64,
}

impl Known {
    /// What an event of the kernel tells: `known` are its `FACTS_*` bits.
    #[must_use]
    pub fn of_event(selection: &Selection, facts: u64, known: u8) -> Self {
        let of_user = selection.user_facts() | LOGIN;
        let looked_at = match known {
            0 => 0,
            FACTS_OF_PROCESS => !of_user,
            FACTS_OF_USER => of_user,
            _ => u64::MAX,
        };
        Self { facts, looked_at }
    }
}

/// Who a process is.
#[derive(Clone, Debug)]
pub struct Resolution<'a> {
    /// Index in [`Compiled::identities`], never of a variant.
    pub identity: usize,
    /// Who it would be rather, had all conditions held: the best first.
    pub passed_over: Vec<PassedOver<'a>>,
}

/// An identity that a process is not.
#[derive(Clone, Debug)]
pub struct PassedOver<'a> {
    /// Its index in [`Compiled::identities`].
    pub identity: usize,
    /// The selector that means the executable or the cgroup.
    pub selector: &'a Selector,
    /// The conditions that do not hold, in the words of the policy.
    pub failed: Vec<String>,
}

/// Who `process` in a cgroup is that belongs to whom `selected` says.
#[must_use]
pub fn resolve<'a>(
    compiled: &'a Compiled,
    selected: &Selected,
    process: &Process<'_>,
) -> Resolution<'a> {
    let mut passed_over = Vec::new();
    let identity = find(compiled, selected, process, &mut passed_over);
    Resolution {
        identity,
        passed_over,
    }
}

/// The order of precedence, as `identity::resolve` of the kernel programs has it.
fn find<'a>(
    compiled: &'a Compiled,
    selected: &Selected,
    process: &Process<'_>,
    passed_over: &mut Vec<PassedOver<'a>>,
) -> usize {
    if selected.ground == Ground::Launch {
        return selected.index;
    }
    let at_exec = Known {
        facts: process.facts_at_exec,
        looked_at: u64::MAX,
    };
    // What a script is says more than what interprets it.
    let by_executable = process
        .script
        .into_iter()
        .chain([process.executable])
        .filter_map(|path| compiled.selection.set_of(path))
        .flat_map(|set| &set.choices)
        .map(|choice| SelectorId {
            identity: choice.identity,
            number: choice.selector,
        })
        .find(|&id| is_chosen(compiled, id, at_exec, passed_over));
    by_executable
        .map(|id| id.identity)
        .or(process.inherited)
        .or_else(|| {
            let mut before = selected.before.iter();
            before
                .find(|&&id| is_chosen(compiled, id, process.facts, passed_over))
                .map(|id| id.identity)
        })
        .unwrap_or(selected.index)
}

/// Whether all conditions of a selector hold; it is passed over otherwise.
fn is_chosen<'a>(
    compiled: &'a Compiled,
    id: SelectorId,
    known: Known,
    passed_over: &mut Vec<PassedOver<'a>>,
) -> bool {
    let Some(selector) = compiled.selector(id.identity, id.number) else {
        return false;
    };
    let failed = failed(
        &compiled.selection,
        selector.required,
        selector.forbidden,
        known,
    );
    if failed.is_empty() {
        return true;
    }
    passed_over.push(PassedOver {
        identity: id.identity,
        selector,
        failed,
    });
    false
}

/// The rules of an identity that do not apply, and the conditions of each that do not hold.
pub fn unmet_rules(
    compiled: &Compiled,
    identity: usize,
    known: Known,
) -> impl Iterator<Item = (&ConditionalRule, Vec<String>)> {
    let rules = compiled
        .identities
        .get(identity)
        .map_or(&[][..], |identity| &identity.conditional);
    rules.iter().filter_map(move |rule| {
        let failed = failed(&compiled.selection, rule.required, rule.forbidden, known);
        (!failed.is_empty()).then_some((rule, failed))
    })
}

/// The conditions that are known not to hold.
fn failed(selection: &Selection, required: u64, forbidden: u64, known: Known) -> Vec<String> {
    let lacking = selection.describe(required & known.looked_at & !known.facts);
    let login = forbidden & known.looked_at & known.facts & LOGIN != 0;
    lacking
        .map(str::to_owned)
        .chain(login.then(|| "login = false".to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
