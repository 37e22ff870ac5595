//! What is configured of limiters, and what was used of them.

use agentguard_common::{
    capacity::{MAX_BUCKETS, MAX_LIMITERS, MAX_RULE_LIMITERS},
    identity::{FLAG_RULE_LIMITS, IdentityRecord},
    limit::{Bucket, BucketKey, LimitState, LimiterRef, Limits, RuleLimiterKey, Scope},
};
use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap},
    macros::btf_map,
};

use super::Held;
use crate::{atomic, policy::Active};

/// Limiter → what is configured: all of slot 0, then all of slot 1. The daemon writes the idle slot,
/// and moves the ends of quota periods in the active one.
#[btf_map]
static LIMITS: Array<Limits, { 2 * MAX_LIMITERS as usize }> = Array::new();

/// Limiter → what was used, whatever the generation. The programs write it; the daemon only where no
/// program has yet.
#[btf_map]
static LIMIT_STATES: Array<LimitState, { MAX_LIMITERS as usize }> = Array::new();

/// What is counted apart by process, cgroup or destination. The programs add to it, the daemon takes
/// away what is as good as new. It never evicts: what is full lets nothing more pass.
#[btf_map]
static BUCKETS: HashMap<
    BucketKey,
    Bucket,
    { MAX_BUCKETS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Limiter → how many of its buckets the daemon has removed. Only the daemon writes it.
#[btf_map]
static REMOVED_BUCKETS: Array<u64, { MAX_LIMITERS as usize }> = Array::new();

/// Identity and rule → limiter, for both slots. The daemon writes the idle slot.
#[btf_map]
static RULE_LIMITERS: HashMap<
    RuleLimiterKey,
    u32,
    { MAX_RULE_LIMITERS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// What is configured of a limiter.
#[inline(always)]
pub fn limits_of(active: Active, limiter: LimiterRef) -> Option<&'static Limits> {
    LIMITS.get(active.slot() * MAX_LIMITERS + limiter.number())
}

/// What was used of it.
#[inline(always)]
pub fn state_of(limiter: LimiterRef) -> Option<*mut LimitState> {
    LIMIT_STATES.get_ptr_mut(limiter.number())
}

/// The limiter of `rule` for the identity of `record`.
#[inline(always)]
pub fn limiter_of_rule(active: Active, record: &IdentityRecord, rule: u32) -> LimiterRef {
    if !record.has(FLAG_RULE_LIMITS) {
        return LimiterRef::NONE;
    }
    let key = RuleLimiterKey {
        identity: record.limiter.0,
        rule,
        slot: active.slot(),
    };
    // SAFETY: the daemon writes the idle slot only.
    match unsafe { RULE_LIMITERS.get(key) } {
        Some(&limiter) => LimiterRef(limiter),
        None => LimiterRef::NONE,
    }
}

/// Who of the scope of `limiter` a flow is of.
#[inline(always)]
fn key_of(limiter: LimiterRef, held: &Held) -> BucketKey {
    const PROCESS: u32 = Scope::Process as u32;
    const CGROUP: u32 = Scope::Cgroup as u32;
    BucketKey {
        limiter: limiter.number(),
        reserved: 0,
        who: match limiter.scope() {
            PROCESS => [held.pid.into(), held.started_ns],
            CGROUP => [held.cgroup_id, 0],
            _ => held.remote,
        },
    }
}

/// The bucket of whom a flow is of, if there is one.
#[inline(always)]
pub fn bucket_of(limiter: LimiterRef, state: *mut LimitState, held: &Held) -> Option<*mut Bucket> {
    if limiter.scope() == Scope::Identity as u32 {
        // SAFETY: a field of a live map value.
        return Some(unsafe { &raw mut (*state).bucket });
    }
    BUCKETS.get_ptr_mut(key_of(limiter, held))
}

/// As [`bucket_of`]; makes one where there is none. `None` where no more fit.
#[inline(always)]
pub fn bucket_of_or_new(
    limiter: LimiterRef,
    limits: &Limits,
    state: *mut LimitState,
    held: &Held,
) -> Option<*mut Bucket> {
    if limiter.scope() == Scope::Identity as u32 {
        // SAFETY: a field of a live map value.
        return Some(unsafe { &raw mut (*state).bucket });
    }
    let key = key_of(limiter, held);
    if let Some(bucket) = BUCKETS.get_ptr_mut(key) {
        return Some(bucket);
    }
    // SAFETY: aligned u64s of a live map value.
    unsafe {
        // Taken before it is used: of many who come at once none gets past the last one.
        let removed = REMOVED_BUCKETS.get(limiter.number()).copied().unwrap_or(0);
        let made = atomic::fetch_add(&raw mut (*state).made, 1);
        if made.wrapping_sub(removed) >= limits.entries.into() {
            atomic::add(&raw mut (*state).made, u64::MAX);
            return None;
        }
        if BUCKETS
            .insert(key, Bucket::default(), BPF_NOEXIST.into())
            .is_err()
        {
            // Somebody else made it, or there is no memory.
            atomic::add(&raw mut (*state).made, u64::MAX);
        }
    }
    BUCKETS.get_ptr_mut(key)
}
