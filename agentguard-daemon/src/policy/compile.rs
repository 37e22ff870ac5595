//! A [`Policy`] to the tables that the kernel looks up.
//!
//! Addresses and ports fall into classes, and every combination of classes that a rule of a profile
//! covers becomes one cell. A cell that no rule covers is left out: the identity's default holds.

mod address;
mod cell;
mod port;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agentguard_common::{
    capacity::{MAX_ADDRESSES, MAX_IDENTITIES, MAX_RULES},
    connection::Direction,
    identity::{
        AgentId, FLAG_ENFORCE, FLAG_PRESENT, FLAG_QUIET, FLAG_RAW_SOCKETS, FLAG_RESTRICTED,
    },
};

use self::{
    address::AddressSets,
    cell::{Cells, ClassedRule, Profile},
    port::PortSets,
};
use super::{
    Effect, HostFacts, Identity, Policy, Rule,
    compiled::{Class, Compiled, CompiledIdentity, Mode, PortClasses, RuleSource, Selector, Tags},
    diagnostic::{Diagnostic, Diagnostics},
    selection::Selection,
    zone,
};

/// Compiles a policy for a host.
///
/// # Errors
///
/// What does not fit into the kernel's maps.
pub fn compile(policy: &Policy, host: &HostFacts) -> Result<Compiled, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let named = MAX_IDENTITIES - AgentId::FIRST_NAMED.0;
    if policy.identities.len() > named as usize {
        diagnostics.push(
            Diagnostic::error(format!(
                "the policy has {} identities; {named} fit",
                policy.identities.len()
            ))
            .help("remove identities, or match several with one glob"),
        );
    }
    let classes = classify(policy, host);
    if classes.addresses.len() > MAX_ADDRESSES as usize {
        diagnostics.push(
            Diagnostic::error(format!(
                "the policy needs {} address prefixes; {MAX_ADDRESSES} fit",
                classes.addresses.len()
            ))
            .help("join neighbouring addresses into larger prefixes"),
        );
    }
    let profiles = Profiles::new(policy);
    let mut cells = Cells::default();
    for (number, roles) in profiles.by_number() {
        cells.fill(number, &classes.profile(roles));
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
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    Ok(Compiled {
        rules: cells.into_sorted(),
        identities: compile_identities(policy, &profiles),
        addresses: classes.addresses,
        ports: classes.ports,
        rule_sources: classes.rule_sources,
        agents_slice: policy.defaults.agents_slice.clone(),
        selection: Selection::default(),
    })
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
    fn profile<'a>(&'a self, roles: impl IntoIterator<Item = &'a String>) -> Profile<'a> {
        roles
            .into_iter()
            .filter_map(|role| self.rules.get(role))
            .flatten()
            .collect()
    }
}

/// Numbers the rules and finds the classes of what they cover.
fn classify(policy: &Policy, host: &HostFacts) -> Classes {
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
                ));
            }
        }
    }
    let address_classes = address_sets.into_classes();
    let port_classes = port_sets.into_classes();
    let mut rules: BTreeMap<String, Vec<ClassedRule>> = BTreeMap::new();
    for (number, (role, direction, rule, sets, ports)) in (1..).zip(drafts) {
        rules.entry(role.to_owned()).or_default().push(ClassedRule {
            number,
            direction,
            effect: rule.effect,
            everywhere: covers_everything(policy, host, rule),
            addresses: address_classes.of_sets(&sets),
            ports: port_classes.of(&ports),
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
    let classes = classify(policy, host);
    let mut shadowed = BTreeMap::new();
    for rules in classes.rules.values() {
        let mut cells = Cells::default();
        let profile: Profile<'_> = rules.iter().collect();
        cells.fill(0, &profile);
        let deciding = cells.deciding();
        for rule in rules {
            if !deciding.contains(&rule.number)
                && let Some(by) = cells.decider(0, rule)
            {
                shadowed.insert(rule.number, by);
            }
        }
    }
    let mut restricting = BTreeSet::new();
    for (number, roles) in Profiles::new(policy).by_number() {
        let mut cells = Cells::default();
        cells.fill(number, &classes.profile(roles));
        restricting.extend(cells.restricting());
    }
    RuleUse {
        shadowed,
        restricting,
    }
}

/// Numbers for sets of roles; 0 is the empty one.
struct Profiles<'a> {
    numbers: HashMap<Vec<&'a String>, u32>,
}

impl<'a> Profiles<'a> {
    fn new(policy: &'a Policy) -> Self {
        let mut numbers = HashMap::from([(Vec::new(), 0)]);
        for identity in policy.identities.values() {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            numbers
                .entry(identity.roles.keys().collect())
                .or_insert(next);
        }
        Self { numbers }
    }

    fn of(&self, identity: &'a Identity) -> u32 {
        let roles: Vec<&String> = identity.roles.keys().collect();
        self.numbers.get(&roles).copied().unwrap_or(0)
    }

    fn by_number(&self) -> Vec<(u32, Vec<&'a String>)> {
        let mut profiles: Vec<_> = self
            .numbers
            .iter()
            .map(|(roles, &number)| (number, roles.clone()))
            .collect();
        profiles.sort_unstable();
        profiles
    }
}

fn compile_identities(policy: &Policy, profiles: &Profiles<'_>) -> Vec<CompiledIdentity> {
    let mut identities = vec![
        built_in("unknown", Class::Unknown, policy.defaults.unknown),
        built_in("unknown-agent", Class::Agent, policy.defaults.unknown_agent),
    ];
    identities.extend(
        policy
            .identities
            .iter()
            .map(|(name, identity)| CompiledIdentity {
                name: name.clone(),
                class: identity.class,
                owner: identity.owner.clone(),
                purpose: identity.purpose.clone(),
                environment: identity.environment.clone(),
                roles: identity.roles.keys().cloned().collect(),
                mode: identity.mode,
                expires: identity.expires.as_ref().map(|expiry| expiry.at),
                selectors: identity.selectors.iter().map(compile_selector).collect(),
                flags: flags_of(policy, identity),
                profile: profiles.of(identity),
                variants: Vec::new(),
                tags: Tags::default(),
                location: Some(identity.place.location()),
            }),
    );
    identities
}

fn built_in(name: &str, class: Class, default: Effect) -> CompiledIdentity {
    let flags = match (default, class) {
        (Effect::Deny, _) => FLAG_RESTRICTED,
        // Nobody asks about the rest of the host; what runs in the agents slice is asked about.
        (Effect::Allow, Class::Unknown) => FLAG_QUIET,
        (Effect::Allow, _) => 0,
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
        variants: Vec::new(),
        tags: Tags::default(),
        location: None,
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

fn compile_selector(selector: &super::Selector) -> Selector {
    Selector {
        systemd_unit: selector
            .systemd_unit
            .as_ref()
            .map(globset::Glob::compile_matcher),
        cgroup: selector.cgroup.as_ref().map(globset::Glob::compile_matcher),
        location: selector.place.location(),
    }
}

#[cfg(test)]
mod tests;
