//! The verdict of a program: the shared decision, asked for each identity that has a say.

use agentguard_common::{
    connection::Connection,
    identity::{AgentId, FLAG_RESTRICTED, IdentityRecord},
    policy::NO_RULE,
    verdict::{Decision, Reason, Verdict, decide},
};

use crate::policy::Active;

/// A decision and whose it is.
#[derive(Clone, Copy)]
pub struct Judgement {
    /// The identity that it is accounted to.
    pub identity: AgentId,
    /// Its record in the generation that judged.
    pub record: IdentityRecord,
    /// What was decided.
    pub decision: Decision,
}

impl Judgement {
    /// Judges `connection` for one identity.
    #[inline(always)]
    pub fn of(active: Active, identity: AgentId, connection: &Connection, now_ns: u64) -> Self {
        let word = judge(active.generation, identity.0, connection, now_ns);
        Self {
            identity,
            record: active.record(identity),
            decision: unpack(word),
        }
    }

    /// Judges `connection` for the task that asks and for the owner of the socket it uses: handing a
    /// socket over, or moving to another cgroup with one, gains nothing.
    #[inline(always)]
    pub fn of_both(
        active: Active,
        caller: AgentId,
        owner: AgentId,
        connection: &Connection,
        now_ns: u64,
    ) -> Self {
        let first = Self::of(active, caller, connection, now_ns);
        if owner == caller || owner == AgentId::NONE {
            return first;
        }
        let second = Self::of(active, owner, connection, now_ns);
        if second.rank() > first.rank() {
            second
        } else {
            first
        }
    }

    /// Which of two judgements stands: a refusal before a would-be refusal before a pass; and among
    /// passes the one of a restricted identity, since the flow is then its own.
    #[inline(always)]
    const fn rank(&self) -> u32 {
        let strictness = match self.decision.verdict {
            Verdict::Allow => 0,
            Verdict::WouldDeny => 2,
            Verdict::Deny => 4,
        };
        strictness + self.record.has(FLAG_RESTRICTED) as u32
    }

    /// Whether the call or packet goes through.
    #[inline(always)]
    pub const fn passes(&self) -> bool {
        match self.decision.verdict {
            Verdict::Allow | Verdict::WouldDeny => true,
            Verdict::Deny => false,
        }
    }
}

/// The shared decision, packed into one word.
///
/// A global function, as `identity::identify`: what follows a verdict, with its event and its counters,
/// is looked at once for all the ways that lead to one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge(
    generation: u64,
    identity: u32,
    connection: *const Connection,
    now_ns: u64,
) -> u64 {
    let active = Active { generation };
    let record = active.record(AgentId(identity));
    // SAFETY: it is null or points to a whole one. The verifier does not know that nobody passes null.
    let decision = match unsafe { connection.as_ref() } {
        Some(connection) => decide(&active, &record, connection, now_ns),
        None => Decision::refuse(&record, Reason::NoRule, NO_RULE),
    };
    u64::from(decision.rule) | (decision.verdict as u64) << 32 | (decision.reason as u64) << 40
}

/// What [`judge`] has packed.
#[inline(always)]
const fn unpack(word: u64) -> Decision {
    Decision {
        verdict: match (word >> 32) as u8 {
            0 => Verdict::Allow,
            2 => Verdict::WouldDeny,
            _ => Verdict::Deny,
        },
        reason: match (word >> 40) as u8 {
            0 => Reason::Rule,
            2 => Reason::Unrestricted,
            3 => Reason::Expired,
            _ => Reason::NoRule,
        },
        rule: word as u32,
    }
}
