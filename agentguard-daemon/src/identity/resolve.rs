//! Who a process is, as the kernel finds it, and why it is nobody else: for people who ask.
#![forbid(unsafe_code)]

use agentguard_common::fact::LOGIN;

use super::{
    context::Context,
    select::{Ground, candidates, select},
};
use crate::policy::{
    compiled::{Compiled, Selector},
    selection::{Choice, Selection},
};

/// What is known of a process besides its cgroup.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process<'a> {
    /// Its facts; those of cgroups need not be among them.
    pub facts: u64,
    /// Path of its executable.
    pub executable: &'a [u8],
    /// Path of the script that its executable interprets.
    pub script: Option<&'a [u8]>,
    /// The identity that it had from an executable before this one, if it is kept.
    pub inherited: Option<usize>,
}

/// Who a process is.
#[derive(Clone, Debug)]
pub struct Resolution<'a> {
    /// Index in [`Compiled::identities`], never of a variant.
    pub identity: usize,
    /// Index of the variant whose rules it has, if their conditions hold.
    pub variant: Option<usize>,
    /// Why; nothing where it is inherited from a former executable.
    pub ground: Option<Ground<'a>>,
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

/// Who `process` in the last cgroup of `chain` is. What `agentguard run` started is known by its label
/// alone, and not looked at here.
#[must_use]
pub fn resolve<'a>(
    compiled: &'a Compiled,
    chain: &[&Context],
    process: &Process<'_>,
) -> Resolution<'a> {
    let selected = select(compiled, chain);
    let facts = process.facts & !compiled.selection.cgroup_facts() | selected.facts;
    let mut passed_over = Vec::new();
    // What a script is says more than what interprets it.
    let paths = process.script.into_iter().chain([process.executable]);
    let by_executable = paths
        .filter_map(|path| compiled.selection.set_of(path))
        .flat_map(|set| &set.choices)
        .find_map(|choice| {
            let selector = selector_of(compiled, choice)?;
            consider(compiled, choice.identity, selector, facts, &mut passed_over)
        });
    let found = match (by_executable, process.inherited) {
        (Some((identity, selector)), _) => (identity, Some(Ground::Selector(selector))),
        (None, Some(identity)) => (identity, None),
        (None, None) => candidates(compiled, chain)
            .into_iter()
            .find_map(|found| {
                consider(
                    compiled,
                    found.identity,
                    found.selector,
                    facts,
                    &mut passed_over,
                )
            })
            .map_or((selected.index, Some(selected.ground)), |(identity, by)| {
                (identity, Some(Ground::Selector(by)))
            }),
    };
    let (identity, ground) = found;
    Resolution {
        identity,
        variant: variant_of(compiled, identity, facts),
        ground,
        passed_over,
    }
}

/// The variant of an identity that is judged where `facts` hold.
#[must_use]
pub fn variant_of(compiled: &Compiled, identity: usize, facts: u64) -> Option<usize> {
    compiled
        .identities
        .get(identity)?
        .variants
        .iter()
        .find(|choice| facts & choice.required == choice.required && facts & choice.forbidden == 0)
        .map(|choice| choice.identity)
}

/// The selector that a choice stems from.
#[must_use]
pub fn selector_of<'a>(compiled: &'a Compiled, choice: &Choice) -> Option<&'a Selector> {
    compiled
        .identities
        .get(choice.identity)?
        .selectors
        .get(choice.selector)
}

fn consider<'a>(
    compiled: &Compiled,
    identity: usize,
    selector: &'a Selector,
    facts: u64,
    passed_over: &mut Vec<PassedOver<'a>>,
) -> Option<(usize, &'a Selector)> {
    let failed = failed(&compiled.selection, selector, facts);
    if failed.is_empty() {
        return Some((identity, selector));
    }
    passed_over.push(PassedOver {
        identity,
        selector,
        failed,
    });
    None
}

fn failed(selection: &Selection, selector: &Selector, facts: u64) -> Vec<String> {
    let lacking = selection.describe(selector.required & !facts);
    let login = selector.forbidden & facts & LOGIN != 0;
    lacking
        .map(str::to_owned)
        .chain(login.then(|| "login = false".to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
