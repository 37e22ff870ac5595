//! Identities with their flags, profiles, marks and variants.

use agentguard_common::identity::{
    FLAG_ENFORCE, FLAG_PRESENT, FLAG_QUIET, FLAG_RAW_SOCKETS, FLAG_RESTRICTED,
};

use super::{
    Classes,
    fact::Facts,
    profile::{Profiles, conditional, join, variants_of},
};
use crate::policy::{
    Effect, Identity, Policy, Tagging,
    compiled::{BUILT_IN, Class, CompiledIdentity, Mode, Selector, Tags},
    selection::Choice,
};

/// The built-in identities, those of the policy, and then their variants.
pub(super) fn compile(
    policy: &Policy,
    classes: &Classes,
    profiles: &Profiles<'_>,
    facts: &Facts<'_>,
    selectors: Vec<Vec<Selector>>,
) -> Vec<CompiledIdentity> {
    let of_class = [
        (Class::Unknown, policy.defaults.unknown),
        (Class::Agent, policy.defaults.unknown_agent),
        (Class::Human, policy.defaults.unknown),
        (Class::Cron, policy.defaults.unknown),
        (Class::Service, policy.defaults.unknown),
    ];
    let mut identities: Vec<CompiledIdentity> = BUILT_IN
        .iter()
        .zip(of_class)
        .map(|(name, (class, default))| built_in(policy, name, class, default))
        .collect();
    for ((name, identity), selectors) in policy.identities.iter().zip(selectors) {
        identities.push(CompiledIdentity {
            name: name.clone(),
            class: identity.class,
            owner: identity.owner.clone(),
            purpose: identity.purpose.clone(),
            environment: identity.environment.clone(),
            roles: identity.roles.keys().cloned().collect(),
            mode: identity.mode,
            expires: identity.expires.as_ref().map(|expiry| expiry.at),
            selectors,
            flags: flags_of(policy, identity),
            profile: profiles.of(identity, &[]),
            conditional: conditional(classes, identity),
            variants: Vec::new(),
            variant_of: None,
            tags: tags(policy, identity.class, &identity.tagging),
            location: Some(identity.place.location()),
        });
    }
    let mut variants = Vec::new();
    for (index, (name, identity)) in policy.identities.iter().enumerate() {
        let base = BUILT_IN.len() + index;
        for conditions in variants_of(classes, identity) {
            let mask = join(&conditions);
            let number = BUILT_IN.len() + policy.identities.len() + variants.len();
            let Some(plain) = identities.get_mut(base) else {
                continue;
            };
            plain.variants.push(Choice {
                required: mask.required,
                forbidden: mask.forbidden,
                identity: number,
                inherit: false,
                selector: 0,
            });
            variants.push(CompiledIdentity {
                name: format!("{name}?{}", facts.texts(mask).join("&")),
                selectors: Vec::new(),
                conditional: Vec::new(),
                variants: Vec::new(),
                variant_of: Some(base),
                profile: profiles.of(identity, &conditions),
                ..plain.clone()
            });
        }
    }
    identities.extend(variants);
    identities
}

fn built_in(policy: &Policy, name: &str, class: Class, default: Effect) -> CompiledIdentity {
    let flags = match (default, class) {
        (Effect::Deny, _) => FLAG_RESTRICTED,
        // What runs in the agents slice is asked about.
        (Effect::Allow, Class::Agent) => 0,
        // Nobody asks about the rest of the host.
        (Effect::Allow, _) => FLAG_QUIET,
    };
    CompiledIdentity {
        name: name.to_owned(),
        class,
        owner: None,
        purpose: None,
        environment: None,
        roles: Vec::new(),
        mode: Mode::Enforce,
        expires: None,
        selectors: Vec::new(),
        flags: FLAG_PRESENT | FLAG_ENFORCE | flags,
        profile: 0,
        conditional: Vec::new(),
        variants: Vec::new(),
        variant_of: None,
        tags: tags(policy, class, &Tagging::default()),
        location: None,
    }
}

/// An identity's own mark and code point, or else those of its class.
fn tags(policy: &Policy, class: Class, own: &Tagging) -> Tags {
    let of_class = policy.classes.get(class.name());
    let mark = own
        .mark
        .as_ref()
        .or_else(|| of_class.and_then(|tagging| tagging.mark.as_ref()))
        .map(|(mark, _)| *mark);
    Tags {
        mark: mark.unwrap_or(0),
        mark_mask: mark.map_or(0, |_| policy.mark_mask.bits),
        dscp: own
            .dscp
            .or_else(|| of_class.and_then(|tagging| tagging.dscp)),
    }
}

fn flags_of(policy: &Policy, identity: &Identity) -> u32 {
    let mut flags = FLAG_PRESENT;
    if identity.mode == Mode::Enforce {
        flags |= FLAG_ENFORCE;
    }
    let free_class = matches!(identity.class, Class::Human | Class::Unknown);
    if !free_class || !identity.roles.is_empty() {
        flags |= FLAG_RESTRICTED;
    }
    let raw_sockets = identity
        .roles
        .keys()
        .filter_map(|name| policy.roles.get(name))
        .any(|role| role.raw_sockets);
    if raw_sockets {
        flags |= FLAG_RAW_SOCKETS;
    }
    flags
}
