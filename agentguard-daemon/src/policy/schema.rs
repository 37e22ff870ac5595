//! The JSON Schema of a policy file, for editors.
//!
//! The parser does not use these shapes: it reports all errors with their places, which a derived
//! one cannot. A test holds the two to the same keys.
#![expect(dead_code, reason = "the shapes are read by the schema alone")]

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, schema_for};

use super::compiled::{Class, Mode};

/// The JSON Schema of a policy file.
#[must_use]
pub fn schema() -> Schema {
    schema_for!(PolicyFile)
}

/// An agentguard policy file.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct PolicyFile {
    /// Named destinations.
    #[schemars(default)]
    zones: BTreeMap<Name, ZoneTable>,
    /// Named rules, granted to identities.
    #[schemars(default)]
    roles: BTreeMap<Name, RoleTable>,
    /// Named actors on the host.
    #[schemars(default)]
    identities: BTreeMap<Name, IdentityTable>,
    /// What holds for what has no identity.
    defaults: Option<DefaultsTable>,
}

#[derive(JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(transparent)]
struct Name(#[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))] String);

/// Named destinations.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct ZoneTable {
    /// Addresses and prefixes, IPv4 or IPv6.
    #[schemars(length(min = 1))]
    addresses: Vec<String>,
}

/// Named rules.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct RoleTable {
    /// What may be reached.
    #[schemars(default)]
    egress: Vec<RuleTable>,
    /// Who may reach it; ports are the local ones.
    #[schemars(default)]
    ingress: Vec<RuleTable>,
    /// Whether raw sockets may be opened.
    raw_sockets: Option<bool>,
}

/// One rule: some of its zones or addresses, and some of its ports.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct RuleTable {
    /// Names of zones. Built in: any, link-local, loopback, metadata, multicast, private, resolvers.
    #[schemars(length(min = 1))]
    zones: Option<Vec<String>>,
    /// Addresses and prefixes, IPv4 or IPv6.
    #[schemars(length(min = 1))]
    addresses: Option<Vec<String>>,
    /// `443/tcp`, `8000-8010/tcp`, `*/udp` or `icmp`; without it, every port and protocol.
    #[schemars(
        length(min = 1),
        inner(regex(pattern = r"^(icmp|(\*|[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?)/(tcp|udp))$"))
    )]
    ports: Option<Vec<String>>,
    /// Deny instead of allow; wins over every rule that allows.
    deny: Option<bool>,
}

/// A named actor on the host.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct IdentityTable {
    /// What kind of actor.
    class: Class,
    /// Who answers for it.
    owner: Option<String>,
    /// What it is for.
    purpose: Option<String>,
    /// Where it runs.
    environment: Option<String>,
    /// Names of roles.
    #[schemars(length(min = 1))]
    roles: Option<Vec<String>>,
    /// Whether denials take effect; `enforce` unless it says `audit`.
    mode: Option<Mode>,
    /// When it ends: a TOML date and time with offset.
    #[schemars(extend("format" = "date-time"))]
    expires: Option<String>,
    /// How processes become it: any of these.
    #[schemars(rename = "match", length(min = 1))]
    selectors: Vec<MatchTable>,
}

/// One selector: all of its keys must match.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields, extend("minProperties" = 1))]
struct MatchTable {
    /// Glob over the name of the systemd unit.
    systemd_unit: Option<String>,
    /// Glob over the cgroup path; `*` stays within one component, `**` crosses them.
    cgroup: Option<String>,
}

/// What holds for what has no identity.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct DefaultsTable {
    /// Outside the agents slice; `allow` unless set.
    unknown: Option<DefaultEffect>,
    /// The systemd slice that agents live in; `agents.slice` unless set.
    agents_slice: Option<String>,
    /// Inside the agents slice; `deny` unless set.
    unknown_agent: Option<DefaultEffect>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum DefaultEffect {
    /// Everything, counted.
    Allow,
    /// Nothing.
    Deny,
}

#[cfg(test)]
mod tests;
