//! Limits of identities and of their rules.

use std::collections::BTreeMap;

use agentguard_common::{
    capacity::{MAX_IDENTITIES, MAX_LIMITERS, MAX_RULE_LIMITERS},
    limit::Scope,
};

use super::Classes;
use crate::policy::{
    Policy,
    compiled::{CompiledIdentity, CompiledLimits},
    diagnostic::{Diagnostic, Diagnostics},
    limit::{LimitSet, Limits, Quota, Rate, name_of_scope},
};

/// What a whole identity or one of its scopes is limited to, by its roles so far.
struct Merged<'p> {
    set: LimitSet,
    tables: Vec<&'p Limits>,
}

/// The limits of all identities, sorted.
pub(super) fn compile(
    policy: &Policy,
    classes: &Classes,
    identities: &[CompiledIdentity],
    diagnostics: &mut Diagnostics,
) -> Vec<CompiledLimits> {
    let mut compiled = Vec::new();
    for (index, identity) in identities.iter().enumerate() {
        // A variant is limited as the identity that it is one of.
        if identity.variant_of.is_some() {
            continue;
        }
        let mut scopes = of_roles(policy, identity, diagnostics);
        check_scopes(identity, &scopes, diagnostics);
        if let Some(default) = policy.defaults.limits.get(identity.class.name()) {
            apply_default(&mut scopes, default);
        }
        compiled.extend(scopes.into_iter().map(|(per, merged)| CompiledLimits {
            identity: index,
            rule: None,
            per,
            limits: merged.set,
            locations: merged.tables.iter().map(|it| it.place.location()).collect(),
        }));
        compiled.extend(of_rules(policy, classes, identity, index));
    }
    let beside = |limits: &&CompiledLimits| limits.rule.is_some() || limits.per != Scope::Identity;
    let count = compiled.iter().filter(beside).count();
    let most = (MAX_LIMITERS - MAX_IDENTITIES).min(MAX_RULE_LIMITERS / 2) as usize;
    if count > most {
        diagnostics.push(
            Diagnostic::error(format!(
                "the policy has {count} limits of rules, processes, cgroups and destinations, one \
                 for each identity that they are of; {most} fit"
            ))
            .help("limit whole identities, in `[roles.NAME.limits]` without `per`"),
        );
    }
    compiled.sort_by_key(|limits| (limits.identity, limits.rule, limits.per));
    compiled
}

/// What the roles of an identity limit, by scope.
fn of_roles<'p>(
    policy: &'p Policy,
    identity: &CompiledIdentity,
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Scope, Merged<'p>> {
    let mut scopes: BTreeMap<Scope, Merged<'p>> = BTreeMap::new();
    let tables = identity.roles.iter().filter_map(|name| {
        let role = policy.roles.get(name)?;
        role.limits.as_ref()
    });
    for limits in tables {
        match scopes.get_mut(&limits.per) {
            Some(merged) => {
                for former in &merged.tables {
                    check_quotas(identity, former, limits, diagnostics);
                }
                merged.set = strictest(&merged.set, &limits.set);
                merged.tables.push(limits);
            }
            None => {
                let merged = Merged {
                    set: limits.set,
                    tables: vec![limits],
                };
                scopes.insert(limits.per, merged);
            }
        }
    }
    scopes
}

/// Which of two quotas is stricter cannot be said where their periods differ.
fn check_quotas(
    identity: &CompiledIdentity,
    former: &Limits,
    limits: &Limits,
    diagnostics: &mut Diagnostics,
) {
    let both = [
        (
            "egress-quota",
            former.set.egress_quota,
            limits.set.egress_quota,
        ),
        (
            "ingress-quota",
            former.set.ingress_quota,
            limits.set.ingress_quota,
        ),
    ];
    for (key, one, other) in both {
        if let (Some(one), Some(other)) = (one, other)
            && one.period != other.period
        {
            diagnostics.push(
                Diagnostic::error(format!(
                    "identity `{}` has an `{key}` of a {} and one of a {}",
                    identity.name,
                    one.period.name(),
                    other.period.name()
                ))
                .at(limits.place.clone())
                .related("the other one is here", former.place.clone())
                .help("give both the same period, or leave one of them out"),
            );
        }
    }
}

/// The kernel looks at two limiters of an identity: of the whole of it, and of a part.
fn check_scopes(
    identity: &CompiledIdentity,
    scopes: &BTreeMap<Scope, Merged<'_>>,
    diagnostics: &mut Diagnostics,
) {
    let mut narrower = scopes.iter().filter(|(per, _)| **per != Scope::Identity);
    if let (Some((one, first)), Some((other, second))) = (narrower.next(), narrower.next())
        && let (Some(first), Some(second)) = (first.tables.first(), second.tables.first())
    {
        diagnostics.push(
            Diagnostic::error(format!(
                "the roles of identity `{}` limit it per {} and per {}",
                identity.name,
                name_of_scope(*one),
                name_of_scope(*other)
            ))
            .at(second.place.clone())
            .related("the other one is here", first.place.clone())
            .help("besides the whole identity, limit one of them; or limit a rule"),
        );
    }
}

/// A default holds, kind by kind, where no role says anything, whatever the scope.
fn apply_default<'p>(scopes: &mut BTreeMap<Scope, Merged<'p>>, default: &'p Limits) {
    let mut left = default.set;
    for merged in scopes.values() {
        let set = &merged.set;
        left.connections = left.connections.filter(|_| set.connections.is_none());
        left.concurrent = left.concurrent.filter(|_| set.concurrent.is_none());
        left.egress = left.egress.filter(|_| set.egress.is_none());
        left.ingress = left.ingress.filter(|_| set.ingress.is_none());
        left.egress_quota = left.egress_quota.filter(|_| set.egress_quota.is_none());
        left.ingress_quota = left.ingress_quota.filter(|_| set.ingress_quota.is_none());
    }
    if left.is_empty() {
        return;
    }
    // Of a part only where no role has taken that place.
    let taken = scopes
        .keys()
        .any(|per| *per != Scope::Identity && *per != default.per);
    if default.per != Scope::Identity && taken {
        return;
    }
    match scopes.get_mut(&default.per) {
        Some(merged) => {
            merged.set = strictest(&merged.set, &left);
            merged.tables.push(default);
        }
        None => {
            let merged = Merged {
                set: left,
                tables: vec![default],
            };
            scopes.insert(default.per, merged);
        }
    }
}

/// The limits of the rules of an identity.
fn of_rules(
    policy: &Policy,
    classes: &Classes,
    identity: &CompiledIdentity,
    index: usize,
) -> Vec<CompiledLimits> {
    let mut found = Vec::new();
    for name in &identity.roles {
        let (Some(role), Some(classed)) = (policy.roles.get(name), classes.rules.get(name)) else {
            continue;
        };
        for (rule, classed) in role.rules().zip(classed) {
            let Some(limits) = &rule.limits else {
                continue;
            };
            found.push(CompiledLimits {
                identity: index,
                rule: Some(classed.number),
                per: limits.per,
                limits: limits.set,
                locations: vec![limits.place.location()],
            });
        }
    }
    found
}

/// Of each kind of limit the lower one, and of two ways to deal with it the stricter.
fn strictest(one: &LimitSet, other: &LimitSet) -> LimitSet {
    fn lower<T>(one: Option<T>, other: Option<T>, of_both: impl Fn(T, T) -> T) -> Option<T> {
        match (one, other) {
            (Some(one), Some(other)) => Some(of_both(one, other)),
            (one, other) => one.or(other),
        }
    }
    let quota = |one: Quota, other: Quota| if one.bytes <= other.bytes { one } else { other };
    LimitSet {
        connections: lower(one.connections, other.connections, |one, other| {
            let per_flow = |rate: &Rate| rate.period.nanoseconds() / rate.count.max(1);
            let slower = if per_flow(&one) >= per_flow(&other) {
                one
            } else {
                other
            };
            Rate {
                burst: one.burst.min(other.burst),
                ..slower
            }
        }),
        concurrent: lower(one.concurrent, other.concurrent, u64::min),
        egress: lower(one.egress, other.egress, Ord::min),
        ingress: lower(one.ingress, other.ingress, Ord::min),
        egress_quota: lower(one.egress_quota, other.egress_quota, quota),
        ingress_quota: lower(one.ingress_quota, other.ingress_quota, quota),
        is_audit: one.is_audit && other.is_audit,
        quota_drops_packets: one.quota_drops_packets || other.quota_drops_packets,
    }
}

#[cfg(test)]
mod tests;
