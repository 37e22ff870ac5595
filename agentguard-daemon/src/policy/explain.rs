//! What a compiled policy says of one connection, and why.

use agentguard_common::{
    connection::Connection,
    identity::NEVER,
    policy::NO_RULE,
    verdict::{Verdict, decide},
};
use jiff::Timestamp;
use serde::Serialize;

use super::compiled::{Compiled, CompiledIdentity, CompiledTables, Location};

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
    }
}

/// Any clock does, as long as it is the same for both sides; before 1970 counts as then.
fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond().max(0)).unwrap_or(NEVER - 1)
}
