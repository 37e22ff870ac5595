//! What is legal in a policy but hardly meant: the warnings.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Effect, HostFacts, Policy, PortMatch, Role, Rule,
    compile::RuleUse,
    compiled::Class,
    diagnostic::{Diagnostic, Diagnostics},
    zone,
};

/// Looks for what has no effect, or another one than it seems to have.
#[must_use]
pub fn review(policy: &Policy, host: &HostFacts, now: Timestamp) -> Diagnostics {
    let mut warnings = Diagnostics::default();
    review_names(policy, &mut warnings);
    review_resolvers(policy, host, &mut warnings);
    review_identities(policy, now, &mut warnings);
    review_rules(policy, host, &mut warnings);
    review_launchers(policy, &mut warnings);
    warnings.sort();
    warnings
}

fn rules_of(role: &Role) -> impl Iterator<Item = &Rule> {
    role.egress.iter().chain(&role.ingress)
}

fn review_names(policy: &Policy, warnings: &mut Diagnostics) {
    let zones: BTreeSet<&String> = policy
        .roles
        .values()
        .flat_map(rules_of)
        .flat_map(|rule| rule.zones.keys())
        .collect();
    for (name, zone) in &policy.zones {
        if !zones.contains(name) {
            warnings.push(
                Diagnostic::warning(format!("no rule uses zone `{name}`"))
                    .at(zone.place.clone())
                    .help(format!(
                        "name it in a rule: `zones = [\"{name}\"]`, or remove it"
                    )),
            );
        }
    }
    let in_use: BTreeSet<&str> = policy.roles_in_use().map(|(name, _)| name).collect();
    for (name, role) in &policy.roles {
        if !in_use.contains(name.as_str()) {
            warnings.push(
                Diagnostic::warning(format!("no identity has role `{name}`"))
                    .at(role.place.clone())
                    .help(format!(
                        "give it to one: `roles = [\"{name}\"]`, or remove it"
                    )),
            );
        }
    }
}

fn review_launchers(policy: &Policy, warnings: &mut Diagnostics) {
    for launcher in &policy.launchers {
        for glob in &launcher.identities {
            let matcher = glob.compile_matcher();
            if !policy.identities.keys().any(|name| matcher.is_match(name)) {
                warnings.push(
                    Diagnostic::warning(format!("no identity matches `{}`", glob.glob()))
                        .at(launcher.place.clone())
                        .help("the launcher lets nobody start anything by it: name an identity of the policy"),
                );
            }
        }
    }
}

fn review_resolvers(policy: &Policy, host: &HostFacts, warnings: &mut Diagnostics) {
    if !host.resolvers.is_empty() {
        return;
    }
    for rule in policy.roles.values().flat_map(rules_of) {
        if let Some(place) = rule.zones.get(zone::RESOLVERS) {
            warnings.push(
                Diagnostic::warning("this host has no name servers: zone `resolvers` is empty")
                    .at(place.clone())
                    .help("set name servers on the host, or write their `addresses`"),
            );
        }
    }
}

fn review_identities(policy: &Policy, now: Timestamp, warnings: &mut Diagnostics) {
    for (name, identity) in &policy.identities {
        if let Some(expiry) = identity.expires.as_ref().filter(|expiry| expiry.at <= now) {
            warnings.push(
                Diagnostic::warning(format!("identity `{name}` has expired: all is denied"))
                    .at(expiry.place.clone())
                    .help("set a later `expires`, or remove the identity"),
            );
        }
        if identity.class == Class::Agent {
            let missing: Vec<&str> = [
                ("owner", &identity.owner),
                ("purpose", &identity.purpose),
                ("environment", &identity.environment),
            ]
            .into_iter()
            .filter(|(_, text)| text.is_none())
            .map(|(key, _)| key)
            .collect();
            if !missing.is_empty() {
                warnings.push(
                    Diagnostic::warning(format!(
                        "agent `{name}` does not say its {}",
                        missing.join(", ")
                    ))
                    .at(identity.place.clone())
                    .help("add it: every event of the agent carries it, for who must answer"),
                );
            }
        }
        let free_class = matches!(identity.class, Class::Human | Class::Unknown);
        if identity.roles.is_empty() && !free_class {
            warnings.push(
                Diagnostic::warning(format!("identity `{name}` has no roles: all is denied"))
                    .at(identity.place.clone())
                    .help("add `roles = [\"ROLE\"]` if it should reach anything"),
            );
        }
    }
}

fn review_rules(policy: &Policy, host: &HostFacts, warnings: &mut Diagnostics) {
    let RuleUse {
        shadowed,
        restricting,
    } = super::compile::rule_use(policy, host);
    let rules: BTreeMap<u32, &Rule> = (1..)
        .zip(policy.roles_in_use().flat_map(|(_, role)| rules_of(role)))
        .collect();
    for (number, rule) in &rules {
        if let Some(by) = shadowed.get(number) {
            let mut warning = Diagnostic::warning("the rule never decides anything")
                .at(rule.place.clone())
                .help("remove it, or put it before the rule that covers it");
            if let Some(first) = rules.get(by) {
                let message = match first.effect {
                    Effect::Allow => "this rule allows all of it already",
                    Effect::Deny => "this rule denies all of it",
                };
                warning = warning.related(message, first.place.clone());
            }
            warnings.push(warning);
        } else if rule.effect == Effect::Deny
            && !restricting.contains(number)
            && !covers_datagrams(rule)
        {
            warnings.push(
                Diagnostic::warning("the rule denies what no rule allows")
                    .at(rule.place.clone())
                    .help("remove it: what no rule allows is denied anyway"),
            );
        }
    }
}

/// Whether a rule covers UDP or ICMP: there a deny also refuses answers that the opposite direction
/// would let pass, so it may matter without an allow beside it.
fn covers_datagrams(rule: &Rule) -> bool {
    rule.ports.as_ref().is_none_or(|ports| {
        ports
            .iter()
            .any(|port| matches!(port, PortMatch::Udp(_) | PortMatch::Icmp))
    })
}
