//! Which identity a cgroup belongs to, by its path.
#![forbid(unsafe_code)]

use crate::policy::compiled::{Compiled, CompiledIdentity, Selector, UNKNOWN_AGENT};

/// Why a cgroup belongs to an identity.
#[derive(Clone, Copy, Debug)]
pub enum Ground<'a> {
    /// A selector of the identity matches its path.
    Selector(&'a Selector),
    /// It is the slice of the agents, and no identity claims it.
    AgentsSlice,
}

/// Whom a cgroup belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// Index in [`Compiled::identities`].
    pub index: usize,
    /// Why.
    pub ground: Ground<'a>,
}

/// Whom the cgroup at `path` belongs to, if policy says so for this very cgroup. What is below it
/// inherits that in the kernel.
///
/// `path` is relative to the cgroup root, with a leading slash. Of several identities that match,
/// the one with the most literal characters in its globs is meant; of equals, the first by name.
#[must_use]
pub fn select<'a>(compiled: &'a Compiled, path: &str) -> Option<Selected<'a>> {
    let unit = system_unit(path);
    let mut best: Option<(usize, Selected<'a>)> = None;
    for (index, identity) in compiled.identities.iter().enumerate() {
        for selector in matching(identity, path, unit) {
            let weight = literal_characters(selector);
            // Identities stand in the order of their names: the first of equals stays.
            if best.is_none_or(|(heaviest, _)| weight > heaviest) {
                let ground = Ground::Selector(selector);
                best = Some((weight, Selected { index, ground }));
            }
        }
    }
    best.map(|(_, selected)| selected).or_else(|| {
        (path == slice_path(&compiled.agents_slice)).then_some(Selected {
            index: UNKNOWN_AGENT,
            ground: Ground::AgentsSlice,
        })
    })
}

fn matching<'a>(
    identity: &'a CompiledIdentity,
    path: &str,
    unit: Option<&str>,
) -> impl Iterator<Item = &'a Selector> {
    identity.selectors.iter().filter(move |selector| {
        let by_unit = selector
            .systemd_unit
            .as_ref()
            .is_none_or(|glob| unit.is_some_and(|unit| glob.is_match(unit)));
        let by_path = selector
            .cgroup
            .as_ref()
            .is_none_or(|glob| glob.is_match(path));
        let says_something = selector.systemd_unit.is_some() || selector.cgroup.is_some();
        says_something && by_unit && by_path
    })
}

const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// The unit of the system manager that the last component of `path` names.
///
/// Only slices may stand above it. Who was given a subtree, as the user managers and containers
/// are below their service or scope, can make cgroups of any name in it: those are no units of the
/// system, and must not take the identity of one.
fn system_unit(path: &str) -> Option<&str> {
    let (above, name) = path.rsplit_once('/')?;
    let in_slices = above
        .split('/')
        .filter(|component| !component.is_empty())
        .all(|component| component.ends_with(".slice"));
    // systemd puts an underscore before names that the kernel could take for its own files.
    let name = name.strip_prefix('_').unwrap_or(name);
    let is_unit = UNIT_SUFFIXES
        .iter()
        .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix));
    (in_slices && is_unit).then_some(name)
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

fn literal_characters(selector: &Selector) -> usize {
    [&selector.systemd_unit, &selector.cgroup]
        .into_iter()
        .flatten()
        .map(|matcher| literals_of_glob(matcher.glob().glob()))
        .sum()
}

fn literals_of_glob(glob: &str) -> usize {
    let mut count = 0;
    let mut in_class = false;
    let mut escaped = false;
    for character in glob.chars() {
        match character {
            _ if escaped => {
                count += 1;
                escaped = false;
            }
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '*' | '?' | '{' | '}' | ',' => {}
            _ if in_class => {}
            _ => count += 1,
        }
    }
    count
}

#[cfg(test)]
mod tests;
