//! Bytes: bandwidth and quota.

use agentguard_common::{
    identity::{FLAG_ENFORCE, IdentityRecord},
    limit::{
        COST_BITS, LIMIT_AUDIT, LimitState, LimiterRef, Limits, OUT, QUOTA_DROPS_PACKETS, take,
    },
};

use super::{
    is_some,
    maps::{bucket_of_or_new, limits_of, state_of},
};
use crate::{atomic, policy::Active, tag::Tag};

/// A flow that takes less than this part of the rate finds room where the others find none: what
/// sends a little is not to wait for what sends all it can.
const SMALL_PART: u64 = 64;

/// The part of the bucket that is kept for those.
const RESERVE_PART: u64 = 8;

const TRIES: u32 = 32;

/// A packet on its way: what it takes.
#[derive(Clone, Copy)]
pub struct Bytes {
    /// IP bytes, of all segments with their headers.
    pub bytes: u64,
    /// Segments.
    pub packets: u64,
    pub is_out: bool,
}

impl Bytes {
    /// Takes the packet from all limiters of its flow; whether it goes on.
    #[inline(always)]
    pub fn pass(self, active: Active, record: &IdentityRecord, tag: &mut Tag, now_ns: u64) -> bool {
        let wanted = [
            LimiterRef(record.limiter.0),
            record.narrower,
            tag.rule_limiter,
        ];
        let packed = self.bytes
            | self.packets << 32
            | u64::from(self.is_out) << 62
            | u64::from(record.has(FLAG_ENFORCE)) << 63;
        let mut index = 0;
        while index < wanted.len() {
            let limiter = wanted[index];
            index += 1;
            if is_some(limiter)
                && take_bytes(active.generation, limiter.0, tag, packed, now_ns) == 0
            {
                return false;
            }
        }
        true
    }
}

/// Takes a packet from one limiter; 0 where it has no room. A global function, as
/// `flow::take_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_bytes(
    generation: u64,
    limiter: u32,
    tag: *mut Tag,
    packed: u64,
    now_ns: u64,
) -> u32 {
    let active = Active { generation };
    let limiter = LimiterRef(limiter);
    // The verifier does not know that nobody passes null.
    if tag.is_null() {
        return 1;
    }
    // SAFETY: it points to a whole one.
    let tag = unsafe { &mut *tag };
    let (Some(limits), Some(state)) = (limits_of(active, limiter), state_of(limiter)) else {
        return 1;
    };
    let (bytes, packets) = (packed & 0xffff_ffff, packed >> 32 & 0x3fff_ffff);
    let way = if packed >> 62 & 1 == 1 { OUT } else { 1 - OUT };
    let is_audit = packed >> 63 == 0 || limits.flags & LIMIT_AUDIT != 0;
    // Once for each way: an index that the verifier follows would cost more than the second copy.
    let has_room = if way == OUT {
        take_way::<OUT>(limits, limiter, state, tag, bytes, now_ns)
    } else {
        take_way::<{ 1 - OUT }>(limits, limiter, state, tag, bytes, now_ns)
    };
    if has_room {
        return 1;
    }
    // SAFETY: aligned u64s of a live map value.
    unsafe {
        if way == OUT {
            atomic::add(&raw mut (*state).over_packets[OUT], packets);
            atomic::add(&raw mut (*state).over_bytes[OUT], bytes);
        } else {
            atomic::add(&raw mut (*state).over_packets[1 - OUT], packets);
            atomic::add(&raw mut (*state).over_bytes[1 - OUT], bytes);
        }
    }
    is_audit.into()
}

#[inline(always)]
fn take_way<const WAY: usize>(
    limits: &Limits,
    limiter: LimiterRef,
    state: *mut LimitState,
    tag: &mut Tag,
    bytes: u64,
    now_ns: u64,
) -> bool {
    if limits.flags & QUOTA_DROPS_PACKETS != 0 && !has_quota(limits, state, WAY, now_ns) {
        return false;
    }
    let rate = &limits.bandwidth[WAY];
    if rate.cost != 0 {
        // SAFETY: a field of a live map value.
        let held = unsafe { &*tag.held() };
        let Some(bucket) = bucket_of_or_new(limiter, limits, state, held) else {
            // SAFETY: an aligned u64 of a live map value.
            unsafe { atomic::add(&raw mut (*state).over_entries, 1) };
            return false;
        };
        let cost = (bytes * rate.cost) >> COST_BITS;
        let burst = if is_small::<WAY>(tag, cost, rate.burst_ns, now_ns) {
            rate.burst_ns
        } else {
            rate.burst_ns - rate.burst_ns / RESERVE_PART
        };
        // SAFETY: a field of a live map value.
        if !unsafe { take_ns(&raw mut (*bucket).bytes_ns[WAY], now_ns, cost, burst) } {
            return false;
        }
    }
    if limits.quota[WAY].bytes != 0 {
        roll(limits, state, WAY, now_ns);
    }
    // SAFETY: an aligned u64 of a live map value.
    unsafe { atomic::add(&raw mut (*state).used[WAY], bytes) };
    true
}

/// Whether the flow takes so little that it has the reserve too. Several CPUs may work at the same
/// socket; what one of them overwrites is a packet more or less.
#[inline(always)]
fn is_small<const WAY: usize>(tag: &mut Tag, cost: u64, burst_ns: u64, now_ns: u64) -> bool {
    let full = tag.paced_ns[WAY];
    let from = if full > now_ns { full } else { now_ns };
    let next = from + cost * SMALL_PART;
    let is_small = next - now_ns <= burst_ns;
    // It need not remember more than what makes it large for a while.
    tag.paced_ns[WAY] = if is_small { next } else { now_ns + burst_ns };
    is_small
}

/// # Safety
///
/// An aligned u64 of a live map value.
#[inline(always)]
unsafe fn take_ns(full: *mut u64, now_ns: u64, cost: u64, burst_ns: u64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let mut seen = atomic::load(full);
        for _ in 0..TRIES {
            let Some(next) = take(seen, now_ns, cost, burst_ns) else {
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

/// Whether something is left of the quota.
#[inline(always)]
pub fn has_quota(limits: &Limits, state: *mut LimitState, way: usize, now_ns: u64) -> bool {
    let quota = limits.quota[way].bytes;
    if quota == 0 {
        return true;
    }
    roll(limits, state, way, now_ns);
    // SAFETY: an aligned u64 of a live map value.
    unsafe { atomic::load(&raw const (*state).used[way]) < quota }
}

/// Begins a new period where the former one is over.
#[inline(always)]
fn roll(limits: &Limits, state: *mut LimitState, way: usize, now_ns: u64) {
    let period = limits.quota[way].period(now_ns);
    // SAFETY: aligned u64s of a live map value.
    unsafe {
        let known = atomic::load(&raw const (*state).period[way]);
        if period > known
            && atomic::compare_exchange(&raw mut (*state).period[way], known, period) == known
        {
            atomic::exchange(&raw mut (*state).used[way], 0);
        }
    }
}
