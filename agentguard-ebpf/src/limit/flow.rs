//! New flows: their rate, and how many are open.

use agentguard_common::{
    connection::{Connection, Direction, Protocol},
    identity::{
        AgentId, FLAG_ENFORCE, FLAG_FLOW_LIMITS, FLAG_HISTORY_FULL, FLAG_RULE_LIMITS,
        IdentityRecord,
    },
    limit::{
        Bucket, EVENT_WINDOW_NS, IN, LIMIT_AUDIT, LimitState, LimiterRef, Limits, OUT, Scope, take,
    },
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

/// What a flow counts in, and by what it is found there again.
#[repr(C)]
pub struct Held {
    /// The limiters whose open flows it is among.
    pub limiters: [LimiterRef; LIMITERS],
    /// Who opened it.
    pub pid: u32,
    pub started_ns: u64,
    pub cgroup_id: u64,
    /// To whom.
    pub remote: [u64; 2],
}

/// Peers of an unconnected socket that are remembered: going back to one of them opens nothing new.
pub const REMEMBERED_PEERS: usize = 8;

/// Tries of one exchange. A loser has seen somebody else succeed, so that many mean that there was
/// room for others.
const TRIES: u32 = 32;

/// A flow of its own.
const NEW_FLOW: u32 = 1;
/// A peer that the socket has had lately: it takes nothing of the rate.
const REPEATED_PEER: u32 = 2;
/// A flow that is there already: it is counted, and refused nowhere.
const ACCEPTED: u32 = 3;
/// The former flow of the socket is counted there, and this one takes its place.
const TAKES_PLACE: u32 = 1 << 8;
const ENFORCED: u32 = 1 << 9;
/// What nobody could be told of is not to be. In audit mode it is.
const HISTORY_FULL: u32 = 1 << 10;

/// Takes a flow from all its limiters, or from none where one of them has no room. What it counts in
/// is in the idle one of [`Tag::held`] then; a former flow of the socket stays as it is, but that it
/// gives up its places to this one.
#[inline(always)]
pub fn admit(
    active: Active,
    record: &IdentityRecord,
    rule: u32,
    tag: &mut Tag,
    connection: &Connection,
    now_ns: u64,
) -> Answer {
    if record.flags & (FLAG_FLOW_LIMITS | FLAG_RULE_LIMITS | FLAG_HISTORY_FULL) == 0 {
        hold(record.limiter, tag.idle_held());
        return Answer::ROOM;
    }
    let rule_limiter = limiter_of_rule(active, record, rule);
    let peer = peer_of(connection);
    let is_tcp = matches!(connection.protocol, Protocol::Tcp);
    let kind = if matches!(connection.direction, Direction::Ingress) {
        ACCEPTED
    } else if !is_tcp && has_peer(tag, peer) {
        REPEATED_PEER
    } else {
        NEW_FLOW
    };
    let remote = words(&connection.remote);
    // SAFETY: aligned u64s of a live map value.
    let is_open = unsafe {
        atomic::load(&raw const tag.flow.open) | atomic::load(&raw const tag.enrolled) != 0
    };
    let next = tag.idle_held();
    // SAFETY: a field of a live map value.
    unsafe {
        (*next).limiters = [LimiterRef::NONE; LIMITERS];
        (*next).pid = tag.pid;
        (*next).started_ns = tag.started_ns;
        (*next).cgroup_id = tag.cgroup_id;
        (*next).remote = remote;
    }
    let former = tag.held();
    let wanted = [LimiterRef(record.limiter.0), record.narrower, rule_limiter];
    // Without a branch: what follows would be verified for each way.
    let enforced = ((record.flags & FLAG_ENFORCE) * (ENFORCED / FLAG_ENFORCE))
        | ((record.flags & FLAG_HISTORY_FULL) * (HISTORY_FULL / FLAG_HISTORY_FULL));
    let mut answer = Answer::ROOM;
    let mut moved = [false; LIMITERS];
    let mut index = 0;
    while index < LIMITERS {
        let limiter = wanted[index];
        if is_some(limiter) && !answer.refuses() {
            // SAFETY: both are fields of a live map value.
            let place = is_open && unsafe { is_same(&*former, &*next, index, limiter) };
            let one = Answer(take_flow(
                active.generation,
                limiter.0,
                next,
                kind | enforced | if place { TAKES_PLACE } else { 0 },
                now_ns,
            ));
            if one.refuses() {
                answer = one;
            } else {
                moved[index] = place;
                // SAFETY: as above.
                unsafe { (*next).limiters[index] = limiter };
                if one.is_over() {
                    answer = one;
                }
            }
        }
        index += 1;
    }
    if answer.refuses() {
        // What the former flow has it keeps.
        let flags = u32::from(moved[0]) | u32::from(moved[1]) << 1 | u32::from(moved[2]) << 2;
        let with_rate = u32::from(kind == NEW_FLOW) << 8;
        release(active.generation, next, flags | with_rate);
        return answer;
    }
    tag.rule_limiter = rule_limiter;
    index = 0;
    while index < LIMITERS {
        if moved[index] {
            // SAFETY: as above.
            unsafe { (*former).limiters[index] = LimiterRef::NONE };
        }
        index += 1;
    }
    if kind == NEW_FLOW && !is_tcp {
        remember_peer(tag, peer);
    }
    answer
}

/// Whether nobody was told of this state for a while; asking tells.
///
/// # Safety
///
/// `state` is a live map value.
#[inline(always)]
unsafe fn is_new_window(state: *mut LimitState, now_ns: u64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let last = atomic::load(&raw const (*state).event_ns);
        now_ns.wrapping_sub(last) >= EVENT_WINDOW_NS
            && atomic::compare_exchange(&raw mut (*state).event_ns, last, now_ns) == last
    }
}

/// Whether two flows of a socket are one and the same for a limiter.
#[inline(always)]
fn is_same(former: &Held, next: &Held, index: usize, limiter: LimiterRef) -> bool {
    const PROCESS: u32 = Scope::Process as u32;
    const CGROUP: u32 = Scope::Cgroup as u32;
    const DESTINATION: u32 = Scope::Destination as u32;
    former.limiters[index].0 == limiter.0
        && match limiter.scope() {
            PROCESS => former.pid == next.pid && former.started_ns == next.started_ns,
            CGROUP => former.cgroup_id == next.cgroup_id,
            DESTINATION => former.remote[0] == next.remote[0] && former.remote[1] == next.remote[1],
            _ => true,
        }
}

/// Counts an open flow where nothing is limited, so that a limit of a later generation finds it.
#[inline(always)]
pub fn hold(limiter: AgentId, held: *mut Held) {
    let limiter = LimiterRef(limiter.0);
    if let Some(state) = state_of(limiter) {
        // SAFETY: an aligned u64 and a field of live map values.
        unsafe {
            atomic::add(&raw mut (*state).bucket.open, 1);
            (*held).limiters = [limiter, LimiterRef::NONE, LimiterRef::NONE];
        }
    }
}

/// Ends what an open flow counts in.
#[inline(always)]
pub fn give_back(active: Active, held: *mut Held) {
    // SAFETY: fields of a live map value.
    let [first, second, third] = unsafe { (*held).limiters };
    if second.0 | third.0 != 0 {
        release(active.generation, held, 0);
    } else if is_some(first) {
        // Most flows have no other.
        if let Some(state) = state_of(first) {
            // SAFETY: an aligned u64 of a live map value.
            unsafe { leave(&raw mut (*state).bucket.open) };
        }
    }
    // SAFETY: as above.
    unsafe { (*held).limiters = [LimiterRef::NONE; LIMITERS] };
}

/// Whether one more flow may be accepted: asked before the handshake is over.
#[inline(always)]
pub fn has_room(active: Active, record: &IdentityRecord) -> bool {
    const REFUSES: u32 = FLAG_HISTORY_FULL | FLAG_ENFORCE;
    if record.flags & REFUSES == REFUSES {
        return false;
    }
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
    held: *mut Held,
    flags: u32,
    now_ns: u64,
) -> u32 {
    let active = Active { generation };
    let limiter = LimiterRef(limiter);
    // The verifier does not know that nobody passes null.
    if held.is_null() {
        return Answer::ROOM.0;
    }
    // SAFETY: it points to a whole one.
    let held = unsafe { &*held };
    let (Some(limits), Some(state)) = (limits_of(active, limiter), state_of(limiter)) else {
        return Answer::ROOM.0;
    };
    let is_audit = flags & ENFORCED == 0 || limits.flags & LIMIT_AUDIT != 0;
    let kind = u32::from(flags as u8);
    if flags & HISTORY_FULL != 0 && kind != ACCEPTED && !is_audit {
        // SAFETY: a live map value.
        let is_new = unsafe { is_new_window(state, now_ns) };
        return Answer::over(Reason::HistoryFull)
            .and(Answer::SILENT, !is_new)
            .0;
    }
    let Some(bucket) = bucket_of_or_new(limiter, limits, state, held) else {
        if kind == ACCEPTED {
            return Answer::ROOM.0;
        }
        return tell(state, Reason::LimitEntries, is_audit, now_ns).0;
    };
    // SAFETY: a field of a live map value.
    let open = unsafe { &raw mut (*bucket).open };
    let has_place = flags & TAKES_PLACE != 0;
    // SAFETY: aligned u64s of live map values.
    unsafe {
        if kind != ACCEPTED
            && (!bytes::has_quota(limits, state, OUT, now_ns)
                || !bytes::has_quota(limits, state, IN, now_ns))
        {
            if is_audit && !has_place {
                atomic::add(open, 1);
            }
            return tell(state, Reason::Quota, is_audit, now_ns).0;
        }
        if has_place {
        } else if kind == ACCEPTED || limits.concurrent == 0 {
            atomic::add(open, 1);
        } else if !enter(open, limits.concurrent) {
            if is_audit {
                atomic::add(open, 1);
            }
            return tell(state, Reason::ConcurrencyLimit, is_audit, now_ns).0;
        }
        if kind != NEW_FLOW {
            return Answer::ROOM.0;
        }
        if limits.connect_cost_ns != 0 && !take_rate(bucket, limits, now_ns) {
            if !is_audit && !has_place {
                leave(open);
            }
            return tell(state, Reason::RateLimit, is_audit, now_ns).0;
        }
        atomic::add(&raw mut (*state).admitted, 1);
    }
    Answer::ROOM.0
}

/// Ends what a flow counts in. Of `flags` the lowest bits say in which limiters it does not, and bit 8
/// that it never came to be, and gives back its part of the rate. A global function, as [`take_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn release(generation: u64, held: *mut Held, flags: u32) -> u32 {
    let active = Active { generation };
    if held.is_null() {
        return 0;
    }
    // SAFETY: it points to a whole one.
    let held = unsafe { &*held };
    let mut index = 0;
    while index < LIMITERS {
        let limiter = held.limiters[index];
        let stays = flags >> index & 1 == 1;
        index += 1;
        if !is_some(limiter) {
            continue;
        }
        let Some(state) = state_of(limiter) else {
            continue;
        };
        let Some(bucket) = bucket_of(limiter, state, held) else {
            continue;
        };
        // SAFETY: aligned u64s of live map values.
        unsafe {
            if !stays {
                leave(&raw mut (*bucket).open);
            }
            if flags >> 8 & 1 == 1 {
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
        Answer::over(reason)
            .and(Answer::AUDIT, is_audit)
            .and(Answer::SILENT, !is_new_window(state, now_ns))
    }
}

/// A peer as one word; never 0, which is no peer.
#[inline(always)]
fn peer_of(connection: &Connection) -> u64 {
    let [high, low] = words(&connection.remote);
    // Knuth's multiplicative hash.
    let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ u64::from(connection.remote_port) << 1) | 1
}

#[inline(always)]
fn has_peer(tag: &Tag, peer: u64) -> bool {
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
fn remember_peer(tag: &mut Tag, peer: u64) {
    let index = tag.next_peer as usize & (REMEMBERED_PEERS - 1);
    tag.next_peer = tag.next_peer.wrapping_add(1);
    // SAFETY: the mask keeps the index within; `get` would leave a panic path in the program.
    unsafe { *tag.peers.get_unchecked_mut(index) = peer };
}
