//! What a compiled policy says of one connection, and why.

use agentguard_common::{
    connection::Connection,
    identity::NEVER,
    policy::NO_RULE,
    verdict::{Verdict, decide},
};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    compiled::{Compiled, CompiledIdentity, CompiledTables, Location},
    limit::name_of_scope,
};

/// A verdict in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// Whom it was asked for.
    pub identity: String,
    /// `allow`, `deny` or `would-deny`.
    pub verdict: &'static str,
    /// Why: `rule`, `no-rule`, `unrestricted` or `expired`.
    pub reason: &'static str,
    /// Name of the rule that decided.
    pub rule: Option<String>,
    /// Where that rule is written.
    pub location: Option<Location>,
    /// What it is taken from, where it passes.
    pub limits: Vec<ExplainedLimit>,
}

/// A limit that a connection is taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainedLimit {
    /// Its key in policy.
    pub limit: &'static str,
    /// As policy writes it.
    pub configured: String,
    /// What is counted apart.
    pub per: &'static str,
    /// The rule that it is of, if it is of one.
    pub rule: Option<String>,
}

/// Judges `connection` for one of `compiled.identities` at `now`, with the code that the kernel
/// programs run.
#[must_use]
pub fn explain(
    compiled: &Compiled,
    identity: &CompiledIdentity,
    connection: &Connection,
    now: Timestamp,
) -> Explanation {
    let expires = identity.expires.map_or(NEVER, nanoseconds);
    let decision = decide(
        &CompiledTables::new(compiled),
        &identity.record(expires),
        connection,
        nanoseconds(now),
    );
    let source = match decision.rule {
        NO_RULE => None,
        number => compiled.rule_sources.get(number as usize - 1),
    };
    let index = compiled
        .index_of(&identity.name)
        .map(|it| compiled.base(it));
    let limits = compiled
        .limits
        .iter()
        .filter(|limits| decision.verdict != Verdict::Deny && Some(limits.identity) == index)
        .filter(|limits| limits.rule.is_none_or(|rule| rule == decision.rule))
        .flat_map(|limits| {
            let rule = limits.rule.and(source).map(|source| source.name.clone());
            limits
                .limits
                .texts()
                .map(move |(limit, configured)| ExplainedLimit {
                    limit,
                    configured,
                    per: name_of_scope(limits.per),
                    rule: rule.clone(),
                })
        })
        .collect();
    Explanation {
        identity: identity.name.clone(),
        verdict: match decision.verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::WouldDeny => "would-deny",
        },
        reason: decision.reason.name(),
        rule: source.map(|source| source.name.clone()),
        location: source.map(|source| source.location.clone()),
        limits,
    }
}

/// Any clock does, as long as it is the same for both sides; before 1970 counts as then.
fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond().max(0)).unwrap_or(NEVER - 1)
}
