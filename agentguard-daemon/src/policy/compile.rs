//! A [`Policy`] to the tables that the kernel looks up.
//!
//! Addresses and ports fall into classes, and every combination of classes that a rule of a profile
//! covers becomes one cell. A cell that no rule covers is left out: the identity's default holds.

mod address;
mod automaton;
mod cell;
mod fact;
mod identity;
mod limit;
mod port;
mod precedence;
mod profile;
mod selector;

use std::collections::{BTreeMap, BTreeSet};

use agentguard_common::{
    capacity::{MAX_ADDRESSES, MAX_IDENTITIES, MAX_RULES},
    connection::Direction,
    identity::AgentId,
};

pub use self::precedence::RANKS;
use self::{
    address::AddressSets,
    cell::{Cells, ClassedRule, Profile},
    fact::{Facts, Mask, accounts},
    port::PortSets,
    profile::{Profiles, applies},
};
use super::{
    HostFacts, Launcher, Policy, Rule,
    compiled::{self, Compiled, PortClasses, RuleSource},
    diagnostic::{Diagnostic, Diagnostics},
    selection::Selection,
    zone,
};

/// Compiles a policy for a host.
///
/// # Errors
///
/// What the host does not have, selectors that contradict each other, and what does not fit into the
/// kernel's maps.
pub fn compile(policy: &Policy, host: &HostFacts) -> Result<Compiled, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let mut facts = Facts::new(host);
    let mut selection = Selection::default();
    let selectors = selector::compile(policy, host, &mut facts, &mut diagnostics);
    let classes = classify(policy, host, &mut facts, &mut diagnostics);
    selector::compile_executables(policy, &selectors, &facts, &mut selection, &mut diagnostics);
    check_unused_roles(policy, host, &mut diagnostics);
    let launchers = compile_launchers(policy, host, &mut diagnostics);
    profile::check(policy, &classes, &mut diagnostics);
    if classes.addresses.len() > MAX_ADDRESSES as usize {
        diagnostics.push(
            Diagnostic::error(format!(
                "the policy needs {} address prefixes; {MAX_ADDRESSES} fit",
                classes.addresses.len()
            ))
            .help("join neighbouring addresses into larger prefixes"),
        );
    }
    let profiles = Profiles::new(policy, &classes);
    let mut cells = Cells::default();
    for (number, rules) in profiles.by_number(&classes) {
        cells.fill(number, &rules);
    }
    if cells.overflow() {
        diagnostics.push(
            Diagnostic::error(format!(
                "the policy needs more than {MAX_RULES} combinations of identity, address class \
                 and port class"
            ))
            .help("use fewer distinct zones and port ranges, or share roles between identities"),
        );
    }
    let identities = identity::compile(policy, &classes, &profiles, &facts, selectors);
    let named = (MAX_IDENTITIES - AgentId::FIRST_NAMED.0) as usize;
    let count = identities.len() - compiled::BUILT_IN.len();
    if count > named {
        diagnostics.push(
            Diagnostic::error(format!(
                "the policy has {count} identities, with a variant for each combination of \
                 conditions on their rules; {named} fit"
            ))
            .help("remove identities, or match several with one glob"),
        );
    }
    let limits = limit::compile(policy, &classes, &identities, &mut diagnostics);
    (selection.facts, selection.users, selection.hashes) = facts.finish(&mut diagnostics);
    if !diagnostics.is_empty() {
        diagnostics.sort();
        return Err(diagnostics);
    }
    Ok(Compiled {
        rules: cells.into_sorted(),
        identities,
        addresses: classes.addresses,
        ports: classes.ports,
        rule_sources: classes.rule_sources,
        agents_slice: policy.defaults.agents_slice.clone(),
        selection,
        launchers,
        limits,
        quota_time: policy.defaults.quota_time,
    })
}

/// Roles that nobody has need no facts, but the names in them have to be right.
fn check_unused_roles(policy: &Policy, host: &HostFacts, diagnostics: &mut Diagnostics) {
    let in_use: BTreeSet<&str> = policy.roles_in_use().map(|(name, _)| name).collect();
    let unused = policy
        .roles
        .iter()
        .filter(|(name, _)| !in_use.contains(name.as_str()));
    for requires in unused
        .flat_map(|(_, role)| role.rules())
        .filter_map(|rule| rule.requires.as_ref())
    {
        let conditions = &requires.conditions;
        for (named, noun, known) in [
            (&conditions.users, "user", &host.users),
            (&conditions.groups, "group", &host.groups),
        ] {
            let named = named.as_deref().unwrap_or_default();
            drop(accounts(named, noun, known, diagnostics));
        }
    }
}

fn compile_launchers(
    policy: &Policy,
    host: &HostFacts,
    diagnostics: &mut Diagnostics,
) -> Vec<compiled::Launcher> {
    let compile = |launcher: &Launcher| compiled::Launcher {
        users: accounts(&launcher.users, "user", &host.users, diagnostics).ids,
        groups: accounts(&launcher.groups, "group", &host.groups, diagnostics).ids,
        identities: launcher
            .identities
            .iter()
            .map(globset::Glob::compile_matcher)
            .collect(),
        location: launcher.place.location(),
    };
    policy.launchers.iter().map(compile).collect()
}

/// All rules that have an effect, in classes.
pub(super) struct Classes {
    addresses: Vec<super::compiled::AddressClass>,
    ports: PortClasses,
    /// By name of the role.
    rules: BTreeMap<String, Vec<ClassedRule>>,
    rule_sources: Vec<RuleSource>,
}

impl Classes {
    /// The rules of some roles, in their order.
    fn profile<'r>(&self, roles: impl IntoIterator<Item = &'r String>) -> Profile<'_> {
        roles
            .into_iter()
            .filter_map(|role| self.rules.get(role))
            .flatten()
            .collect()
    }
}

/// Numbers the rules and finds the classes of what they cover.
fn classify(
    policy: &Policy,
    host: &HostFacts,
    facts: &mut Facts<'_>,
    diagnostics: &mut Diagnostics,
) -> Classes {
    let mut address_sets = AddressSets::new(policy, host);
    let mut port_sets = PortSets::default();
    let mut rule_sources = Vec::new();
    let mut drafts = Vec::new();
    for (role_name, role) in policy.roles_in_use() {
        for (direction, word, rules) in [
            (Direction::Egress, "egress", &role.egress),
            (Direction::Ingress, "ingress", &role.ingress),
        ] {
            for (index, rule) in rules.iter().enumerate() {
                rule_sources.push(RuleSource {
                    name: format!("{role_name}.{word}[{index}]"),
                    location: rule.place.location(),
                });
                drafts.push((
                    role_name,
                    direction,
                    rule,
                    address_sets.add(rule),
                    port_sets.add(rule),
                    facts.of_requires(rule.requires.as_ref(), diagnostics),
                ));
            }
        }
    }
    let address_classes = address_sets.into_classes();
    let port_classes = port_sets.into_classes();
    let mut rules: BTreeMap<String, Vec<ClassedRule>> = BTreeMap::new();
    for (number, (role, direction, rule, sets, ports, condition)) in (1..).zip(drafts) {
        rules.entry(role.to_owned()).or_default().push(ClassedRule {
            number,
            direction,
            effect: rule.effect,
            everywhere: covers_everything(policy, host, rule),
            addresses: address_classes.of_sets(&sets),
            ports: port_classes.of(&ports),
            condition,
        });
    }
    Classes {
        addresses: address_classes.prefixes,
        ports: port_classes.tables,
        rules,
        rule_sources,
    }
}

/// Whether a rule holds for every remote address of both families.
fn covers_everything(policy: &Policy, host: &HostFacts, rule: &Rule) -> bool {
    let all: Vec<_> = rule
        .zones
        .keys()
        .flat_map(|name| zone_addresses(policy, host, name))
        .chain(rule.addresses.iter().copied())
        .filter(|prefix| prefix.prefix_len() == 0)
        .collect();
    all.iter().any(|prefix| prefix.addr().is_ipv4())
        && all.iter().any(|prefix| prefix.addr().is_ipv6())
}

fn zone_addresses(policy: &Policy, host: &HostFacts, name: &str) -> Vec<ipnet::IpNet> {
    match policy.zones.get(name) {
        Some(zone) => zone.addresses.clone(),
        None => zone::built_in_addresses(name, host),
    }
}

/// Which rules have an effect.
pub(super) struct RuleUse {
    /// Rules that decide nothing within their role, and one that decides in their stead.
    pub(super) shadowed: BTreeMap<u32, u32>,
    /// Deny rules that take away what another rule of some identity allows.
    pub(super) restricting: BTreeSet<u32>,
}

/// Finds the rules that have none. Numbers are those of [`Compiled::rule_sources`].
pub(super) fn rule_use(policy: &Policy, host: &HostFacts) -> RuleUse {
    // Only whether conditions are the same matters here; what is wrong with them is known by now.
    let mut ignored = Diagnostics::default();
    let classes = classify(policy, host, &mut Facts::new(host), &mut ignored);
    let mut shadowed = BTreeMap::new();
    for rules in classes.rules.values() {
        let conditions: BTreeSet<Mask> = rules.iter().map(|rule| rule.condition).collect();
        // A rule is beside those without a condition and those with its own.
        for condition in conditions {
            let profile: Profile<'_> = rules
                .iter()
                .filter(|rule| applies(rule, &[condition]))
                .collect();
            let mut cells = Cells::default();
            cells.fill(0, &profile);
            let deciding = cells.deciding();
            for rule in rules.iter().filter(|rule| rule.condition == condition) {
                if !deciding.contains(&rule.number)
                    && let Some(by) = cells.decider(0, rule)
                {
                    shadowed.insert(rule.number, by);
                }
            }
        }
    }
    let mut restricting = BTreeSet::new();
    for (number, rules) in Profiles::new(policy, &classes).by_number(&classes) {
        let mut cells = Cells::default();
        cells.fill(number, &rules);
        restricting.extend(cells.restricting());
    }
    RuleUse {
        shadowed,
        restricting,
    }
}

#[cfg(test)]
mod tests;
