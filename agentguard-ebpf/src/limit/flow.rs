//! New flows: their rate, and how many are open.

use agentguard_common::{
    connection::Protocol,
    identity::{AgentId, FLAG_ENFORCE, FLAG_FLOW_LIMITS, FLAG_RULE_LIMITS, IdentityRecord},
    limit::{Bucket, EVENT_WINDOW_NS, IN, LIMIT_AUDIT, LimitState, LimiterRef, Limits, OUT, take},
    verdict::Reason,
};

use super::{
    Answer, LIMITERS, bytes, is_some,
    maps::{bucket_of, bucket_of_or_new, limiter_of_rule, limits_of, state_of},
};
use crate::{
    atomic,
    policy::Active,
    tag::{Tag, words},
};

/// What the open flow of a socket counts in, and by what it is found there again.
#[repr(C)]
pub struct Held {
    /// The limiters whose open flows it is among.
    pub limiters: [LimiterRef; LIMITERS],
    /// Who opened it.
    pub pid: u32,
    pub started_ns: u64,
    pub cgroup_id: u64,
}

/// Peers of an unconnected socket that are remembered: going back to one of them opens nothing new.
pub const REMEMBERED_PEERS: usize = 8;

/// Tries of one exchange. A loser has seen somebody else succeed, so that many mean that there was
/// room for others.
const TRIES: u32 = 32;

const NEW_FLOW: u32 = 1;
const REPEATED_PEER: u32 = 2;
const ACCEPTED: u32 = 3;

/// Takes the flow that `tag` describes from all its limiters, or from none where one of them has no
/// room. An accepted flow is there already: it is counted, and refused nowhere.
#[inline(always)]
pub fn admit(
    active: Active,
    record: &IdentityRecord,
    rule: u32,
    tag: &mut Tag,
    is_accepted: bool,
    now_ns: u64,
) -> Answer {
    if !record.has(FLAG_FLOW_LIMITS) && !record.has(FLAG_RULE_LIMITS) {
        hold(record.limiter, tag);
        return Answer::ROOM;
    }
    tag.held.pid = tag.pid;
    tag.held.started_ns = tag.started_ns;
    tag.held.cgroup_id = tag.cgroup_id;
    tag.rule_limiter = limiter_of_rule(active, record, rule);
    let kind = if is_accepted {
        ACCEPTED
    } else if matches!(tag.flow.protocol, Protocol::Tcp) || !has_peer(tag) {
        NEW_FLOW
    } else {
        REPEATED_PEER
    };
    let wanted = [
        LimiterRef(record.limiter.0),
        record.narrower,
        tag.rule_limiter,
    ];
    let mut answer = Answer::ROOM;
    let mut index = 0;
    while index < LIMITERS {
        let limiter = wanted[index];
        if is_some(limiter) && !answer.refuses() {
            let is_enforced = record.has(FLAG_ENFORCE);
            let one = Answer(take_flow(
                active.generation,
                limiter.0,
                tag,
                kind | u32::from(is_enforced) << 8,
                now_ns,
            ));
            if one.refuses() {
                answer = one;
            } else {
                tag.held.limiters[index] = limiter;
                if one.is_over() {
                    answer = one;
                }
            }
        }
        index += 1;
    }
    if answer.refuses() {
        give_back(active, tag, kind == NEW_FLOW);
    } else if kind == NEW_FLOW && !matches!(tag.flow.protocol, Protocol::Tcp) {
        remember_peer(tag);
    }
    answer
}

/// Counts an open flow where nothing is limited, so that a limit of a later generation finds it.
#[inline(always)]
fn hold(limiter: AgentId, tag: &mut Tag) {
    let limiter = LimiterRef(limiter.0);
    if let Some(state) = state_of(limiter) {
        // SAFETY: an aligned u64 of a live map value.
        unsafe { atomic::add(&raw mut (*state).bucket.open, 1) };
        tag.held.limiters[0] = limiter;
    }
}

/// Ends what [`admit`] took: the open flow, and its part of the rate where it never came to be.
#[inline(always)]
pub fn give_back(active: Active, tag: &mut Tag, with_rate: bool) {
    let first = tag.held.limiters[0];
    let others = tag.held.limiters[1].0 | tag.held.limiters[2].0;
    if with_rate || others != 0 {
        release(active.generation, tag, with_rate.into());
    } else if is_some(first) {
        // Most flows have no other.
        if let Some(state) = state_of(first) {
            // SAFETY: an aligned u64 of a live map value.
            unsafe { leave(&raw mut (*state).bucket.open) };
        }
    }
    tag.held.limiters = [LimiterRef::NONE; LIMITERS];
}

/// Whether one more flow may be accepted: asked before the handshake is over.
#[inline(always)]
pub fn has_room(active: Active, record: &IdentityRecord) -> bool {
    let limiter = LimiterRef(record.limiter.0);
    let (Some(state), Some(limits)) = (state_of(limiter), limits_of(active, limiter)) else {
        return true;
    };
    // SAFETY: an aligned u64 of a live map value.
    let open = unsafe { atomic::load(&raw const (*state).bucket.open) };
    if limits.concurrent == 0 || open < limits.concurrent {
        return true;
    }
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut (*state).over_concurrent, 1) };
    !record.has(FLAG_ENFORCE) || limits.flags & LIMIT_AUDIT != 0
}

/// Takes one flow from one limiter. A global function: the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_flow(
    generation: u64,
    limiter: u32,
    tag: *mut Tag,
    kind: u32,
    now_ns: u64,
) -> u32 {
    let active = Active { generation };
    let limiter = LimiterRef(limiter);
    // The verifier does not know that nobody passes null.
    if tag.is_null() {
        return Answer::ROOM.0;
    }
    // SAFETY: it points to a whole one.
    let tag = unsafe { &*tag };
    let (Some(limits), Some(state)) = (limits_of(active, limiter), state_of(limiter)) else {
        return Answer::ROOM.0;
    };
    let is_audit = kind >> 8 == 0 || limits.flags & LIMIT_AUDIT != 0;
    let kind = kind as u8 as u32;
    let Some(bucket) = bucket_of_or_new(limiter, limits, state, tag) else {
        if kind == ACCEPTED {
            return Answer::ROOM.0;
        }
        return tell(state, Reason::LimitEntries, is_audit, now_ns).0;
    };
    let over = if kind == ACCEPTED {
        None
    } else if !bytes::has_quota(limits, state, OUT, now_ns)
        || !bytes::has_quota(limits, state, IN, now_ns)
    {
        Some(Reason::Quota)
    } else {
        None
    };
    // SAFETY: aligned u64s of live map values.
    unsafe {
        if let Some(reason) = over {
            if is_audit {
                atomic::add(&raw mut (*bucket).open, 1);
            }
            return tell(state, reason, is_audit, now_ns).0;
        }
        if kind == ACCEPTED || limits.concurrent == 0 {
            atomic::add(&raw mut (*bucket).open, 1);
        } else if !enter(&raw mut (*bucket).open, limits.concurrent) {
            if is_audit {
                atomic::add(&raw mut (*bucket).open, 1);
            }
            return tell(state, Reason::ConcurrencyLimit, is_audit, now_ns).0;
        }
        if kind != NEW_FLOW {
            return Answer::ROOM.0;
        }
        if limits.connect_cost_ns != 0 && !take_rate(bucket, limits, now_ns) {
            if !is_audit {
                leave(&raw mut (*bucket).open);
            }
            return tell(state, Reason::RateLimit, is_audit, now_ns).0;
        }
        atomic::add(&raw mut (*state).admitted, 1);
    }
    Answer::ROOM.0
}

/// See [`give_back`]. A global function, as [`take_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn release(generation: u64, tag: *mut Tag, with_rate: u32) -> u32 {
    let active = Active { generation };
    if tag.is_null() {
        return 0;
    }
    // SAFETY: it points to a whole one.
    let tag = unsafe { &*tag };
    let mut index = 0;
    while index < LIMITERS {
        let limiter = tag.held.limiters[index];
        index += 1;
        if !is_some(limiter) {
            continue;
        }
        let Some(state) = state_of(limiter) else {
            continue;
        };
        let Some(bucket) = bucket_of(limiter, state, tag) else {
            continue;
        };
        // SAFETY: aligned u64s of live map values.
        unsafe {
            leave(&raw mut (*bucket).open);
            if with_rate != 0 {
                if let Some(limits) = limits_of(active, limiter) {
                    let cost = limits.connect_cost_ns;
                    atomic::add(&raw mut (*bucket).connect_ns, 0u64.wrapping_sub(cost));
                }
                atomic::add(&raw mut (*state).admitted, u64::MAX);
            }
        }
    }
    0
}

/// Takes the cost of one flow from the bucket of the rate.
///
/// # Safety
///
/// `bucket` is a live map value.
#[inline(always)]
unsafe fn take_rate(bucket: *mut Bucket, limits: &Limits, now_ns: u64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let full = &raw mut (*bucket).connect_ns;
        let mut seen = atomic::load(full);
        for _ in 0..TRIES {
            let Some(next) = take(
                seen,
                now_ns,
                limits.connect_cost_ns,
                limits.connect_burst_ns,
            ) else {
                return false;
            };
            let found = atomic::compare_exchange(full, seen, next);
            if found == seen {
                return true;
            }
            seen = found;
        }
    }
    false
}

/// One more, unless there are `limit` already.
///
/// # Safety
///
/// An aligned u64 of a live map value.
#[inline(always)]
unsafe fn enter(open: *mut u64, limit: u64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let mut seen = atomic::load(open);
        for _ in 0..TRIES {
            if seen >= limit {
                return false;
            }
            let found = atomic::compare_exchange(open, seen, seen + 1);
            if found == seen {
                return true;
            }
            seen = found;
        }
    }
    false
}

/// One less; never below none, which would be very many.
///
/// # Safety
///
/// As [`enter`].
#[inline(always)]
unsafe fn leave(open: *mut u64) {
    // SAFETY: the caller's.
    unsafe {
        if atomic::fetch_add(open, u64::MAX) == 0 {
            atomic::add(open, 1);
        }
    }
}

/// Counts a refusal, and says whether it is the one in its time that is told of.
#[inline(always)]
fn tell(state: *mut LimitState, reason: Reason, is_audit: bool, now_ns: u64) -> Answer {
    // SAFETY: aligned u64s of a live map value.
    unsafe {
        let count = if matches!(reason, Reason::RateLimit) {
            &raw mut (*state).over_rate
        } else if matches!(reason, Reason::ConcurrencyLimit) {
            &raw mut (*state).over_concurrent
        } else if matches!(reason, Reason::Quota) {
            &raw mut (*state).over_quota
        } else {
            &raw mut (*state).over_entries
        };
        atomic::add(count, 1);
        let last = atomic::load(&raw const (*state).event_ns);
        let is_new = now_ns.wrapping_sub(last) >= EVENT_WINDOW_NS
            && atomic::compare_exchange(&raw mut (*state).event_ns, last, now_ns) == last;
        Answer::over(reason)
            .and(Answer::AUDIT, is_audit)
            .and(Answer::SILENT, !is_new)
    }
}

/// The peer of the flow as one word; never 0, which is no peer.
#[inline(always)]
fn peer_of(tag: &Tag) -> u64 {
    let [high, low] = words(&tag.flow.remote);
    // Knuth's multiplicative hash.
    let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ u64::from(tag.flow.remote_port) << 1) | 1
}

#[inline(always)]
fn has_peer(tag: &Tag) -> bool {
    let peer = peer_of(tag);
    let mut index = 0;
    while index < REMEMBERED_PEERS {
        if tag.peers[index] == peer {
            return true;
        }
        index += 1;
    }
    false
}

#[inline(always)]
fn remember_peer(tag: &mut Tag) {
    let index = tag.next_peer as usize & (REMEMBERED_PEERS - 1);
    tag.next_peer = tag.next_peer.wrapping_add(1);
    let peer = peer_of(tag);
    // SAFETY: the mask keeps the index within; `get` would leave a panic path in the program.
    unsafe { *tag.peers.get_unchecked_mut(index) = peer };
}
