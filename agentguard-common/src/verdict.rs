//! The decision: one function, run by the kernel programs, by `agentguard explain` and by tests.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::{
    connection::Connection,
    identity::{FLAG_ENFORCE, FLAG_RESTRICTED, IdentityRecord},
    policy::{NO_RULE, Tables, find_rule},
};

/// What happens to a connection.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(u8)]
#[must_use]
pub enum Verdict {
    /// It passes.
    Allow = 0,
    /// It is refused.
    Deny = 1,
    /// It passes because the identity is in audit mode, and would be refused in enforce mode.
    WouldDeny = 2,
}

/// Why.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(u8)]
pub enum Reason {
    /// A rule matched; the decision names it.
    Rule = 0,
    /// No rule of the identity's roles allows it.
    NoRule = 1,
    /// The identity is not restricted: everything passes and is counted.
    Unrestricted = 2,
    /// The identity has ended.
    Expired = 3,
    /// A raw socket, and no role of the identity grants `raw-sockets`.
    RawSocket = 4,
    /// A socket type that the hooks cannot judge flow by flow: MPTCP, SCTP, DCCP, UDP-Lite.
    SocketType = 5,
    /// An IPv6 routing header: the packet goes elsewhere than its last destination.
    RoutingHeader = 6,
    /// IPv4 options, source routes among them.
    IpOptions = 7,
    /// A packet whose headers could not be read.
    Malformed = 8,
    /// More new flows than the rate allows.
    RateLimit = 9,
    /// More open flows than allowed.
    ConcurrencyLimit = 10,
    /// The bytes of the period are used up.
    Quota = 11,
    /// More processes, cgroups or destinations than can be counted apart.
    LimitEntries = 12,
    /// The history has no room for what sinks do not have yet, and settings say that then nobody may
    /// open a flow.
    HistoryFull = 13,
}

impl Reason {
    /// The word for it, the same in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::NoRule => "no-rule",
            Self::Unrestricted => "unrestricted",
            Self::Expired => "expired",
            Self::RawSocket => "raw-socket",
            Self::SocketType => "socket-type",
            Self::RoutingHeader => "routing-header",
            Self::IpOptions => "ip-options",
            Self::Malformed => "malformed",
            Self::RateLimit => "rate-limit",
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::Quota => "quota",
            Self::LimitEntries => "limit-entries",
            Self::HistoryFull => "history-full",
        }
    }

    /// Whether a limit is reached: policy allows it, and a later try may succeed.
    #[must_use]
    pub const fn is_limit(self) -> bool {
        matches!(
            self,
            Self::RateLimit
                | Self::ConcurrencyLimit
                | Self::Quota
                | Self::LimitEntries
                | Self::HistoryFull
        )
    }
}

/// A verdict with its grounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decided, or [`NO_RULE`].
    pub rule: u32,
}

impl Decision {
    /// A refusal for `reason`, softened to [`Verdict::WouldDeny`] for an identity in audit mode.
    #[inline(always)]
    pub const fn refuse(identity: &IdentityRecord, reason: Reason, rule: u32) -> Self {
        let verdict = if identity.has(FLAG_ENFORCE) {
            Verdict::Deny
        } else {
            Verdict::WouldDeny
        };
        Self {
            verdict,
            reason,
            rule,
        }
    }

    /// A pass for `reason`.
    #[inline(always)]
    pub const fn allow(reason: Reason, rule: u32) -> Self {
        Self {
            verdict: Verdict::Allow,
            reason,
            rule,
        }
    }
}

/// Judges `connection` for `identity` at `now_ns` of the boot clock.
#[inline(always)]
pub fn decide(
    tables: &impl Tables,
    identity: &IdentityRecord,
    connection: &Connection,
    now_ns: u64,
) -> Decision {
    // An ended identity is refused even where it was not restricted: it has nothing left to use.
    if now_ns >= identity.expires_ns {
        return Decision::refuse(identity, Reason::Expired, NO_RULE);
    }
    if !identity.has(FLAG_RESTRICTED) {
        return Decision::allow(Reason::Unrestricted, NO_RULE);
    }
    match find_rule(tables, identity.profile, connection) {
        Some(entry) if entry.allow => Decision::allow(Reason::Rule, entry.rule),
        Some(entry) => Decision::refuse(identity, Reason::Rule, entry.rule),
        None => Decision::refuse(identity, Reason::NoRule, NO_RULE),
    }
}

#[cfg(test)]
mod tests;
