//! The JSON Schema of a policy file, for editors.
//!
//! The parser does not use these shapes: it reports all errors with their places, which a derived
//! one cannot. A test holds the two to the same keys.
#![expect(dead_code, reason = "the shapes are read by the schema alone")]

mod limit;

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, schema_for};

use self::limit::{ClassLimits, LimitsTable};
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
    /// What marks the packets of a class.
    #[schemars(default)]
    classes: Classes,
    /// Which marks are agentguard's.
    tags: Option<TagsTable>,
    /// Who may start which identity by `agentguard run`, besides root.
    #[schemars(length(min = 1))]
    launchers: Option<Vec<LauncherTable>>,
}

/// What marks the packets of a class.
#[derive(JsonSchema, Default, serde::Serialize)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Classes {
    /// AI agents.
    agent: Option<ClassTable>,
    /// Build and test jobs.
    ci: Option<ClassTable>,
    /// Scheduled jobs.
    cron: Option<ClassTable>,
    /// Long-running services.
    service: Option<ClassTable>,
    /// People.
    human: Option<ClassTable>,
    /// What nobody knows.
    unknown: Option<ClassTable>,
}

/// What marks the packets of a class, where an identity does not say so itself.
#[derive(JsonSchema, Default, serde::Serialize)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct ClassTable {
    /// Socket mark; only bits of `mark-mask`.
    mark: Option<u32>,
    /// Differentiated services code point: a name or 0 to 63.
    dscp: Option<CodePoint>,
}

#[derive(JsonSchema, serde::Serialize)]
#[schemars(untagged)]
enum CodePoint {
    /// `cs0` to `cs7`, `af11` to `af43`, `ef`, `va` or `le`.
    Name(#[schemars(regex(pattern = r"^(cs[0-7]|af[1-4][1-3]|ef|va|le)$"))] String),
    /// 0 to 63.
    Number(#[schemars(range(max = 63))] u8),
}

/// Which marks are agentguard's.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct TagsTable {
    /// Bits of the socket mark that agentguard sets; 0xff000000 unless set.
    #[schemars(range(min = 1))]
    mark_mask: Option<u32>,
}

/// Who may start what.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct LauncherTable {
    /// Users, by name or number.
    users: Option<OneOrMore<Account>>,
    /// Groups, by name or number.
    groups: Option<OneOrMore<Account>>,
    /// Globs over the names of identities.
    identities: OneOrMore<String>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum OneOrMore<T> {
    One(T),
    More(#[schemars(length(min = 1))] Vec<T>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Account {
    Name(String),
    Number(u32),
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
    /// What an identity that has the role is limited to.
    limits: Option<LimitsTable>,
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
    /// Without these the rule does not apply.
    requires: Option<RequiresTable>,
    /// What passes by the rule is limited to, for each identity by itself.
    limits: Option<LimitsTable>,
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
    selectors: Option<Vec<MatchTable>>,
    /// Without these nobody becomes it, and the next that matches is tried.
    requires: Option<RequiresTable>,
    /// Whether a unit may claim it by `LogExtraFields=AGENTGUARD_IDENTITY=NAME` in its unit file.
    claimable_by_unit: Option<bool>,
    /// Socket mark; only bits of `mark-mask`.
    mark: Option<u32>,
    /// Differentiated services code point: a name or 0 to 63.
    dscp: Option<CodePoint>,
}

/// One selector: all of its keys must match.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields, extend("minProperties" = 1))]
struct MatchTable {
    /// Glob over the name of the systemd unit.
    systemd_unit: Option<String>,
    /// Glob over the names of the slices that the cgroup is in; alone, it means the slice itself.
    slice: Option<String>,
    /// Glob over the cgroup path; `*` stays within one component, `**` crosses them.
    cgroup: Option<String>,
    /// The container.
    container: Option<ContainerTable>,
    /// Real user, by name or number.
    user: Option<OneOrMore<Account>>,
    /// Real group, or a group that has the user as a member; by name or number.
    group: Option<OneOrMore<Account>>,
    /// Whether somebody logged in is behind it.
    login: Option<bool>,
    /// Glob over the class of the login session.
    session_class: Option<String>,
    /// Glob over the path of the executable or script; `**` crosses components.
    executable: Option<OneOrMore<String>>,
    /// SHA-256 of the executable, which is then written without wildcards.
    sha256: Option<OneOrMore<Sha256>>,
    /// Whether the identity is kept over executables that match nothing; true unless set.
    inherit: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(transparent)]
struct Sha256(#[schemars(regex(pattern = r"^(sha256:)?[0-9a-fA-F]{64}$"))] String);

/// A container: all of its keys must match.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields, extend("minProperties" = 1))]
struct ContainerTable {
    /// What runs it.
    runtime: Option<RuntimeName>,
    /// Glob over its id.
    id: Option<String>,
    /// Glob over its name.
    name: Option<String>,
    /// Glob over its image; `*` stays within one component, `**` crosses them.
    image: Option<String>,
    /// Globs over the values of its labels.
    #[schemars(extend("minProperties" = 1))]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum RuntimeName {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd.
    Containerd,
    /// CRI-O.
    CriO,
}

/// What must hold besides: all of its keys.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields, extend("minProperties" = 1))]
struct RequiresTable {
    /// Whether somebody logged in is behind it.
    login: Option<bool>,
    /// Glob over the systemd unit that it is in.
    unit: Option<String>,
    /// Glob over the slices that it is in.
    slice: Option<String>,
    /// The container that it is in.
    container: Option<ContainerTable>,
    /// Real user, by name or number.
    user: Option<OneOrMore<Account>>,
    /// Real group, or a group that has the user as a member; by name or number.
    group: Option<OneOrMore<Account>>,
    /// Glob over the class of the login session.
    session_class: Option<String>,
    /// Glob over the path of its parent's executable or script.
    parent_executable: Option<OneOrMore<String>>,
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
    /// Where hours, days and months of quotas begin; `utc` unless set.
    quota_time: Option<QuotaTime>,
    /// What identities of a class are limited to where their roles do not say.
    #[schemars(default)]
    limits: ClassLimits,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum DefaultEffect {
    /// Everything, counted.
    Allow,
    /// Nothing.
    Deny,
}

/// Where periods begin.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum QuotaTime {
    /// In Coordinated Universal Time.
    Utc,
    /// In the time zone of the host.
    Local,
}

#[cfg(test)]
mod tests;
