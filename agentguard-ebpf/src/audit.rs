//! Audit: counts everything exactly, and writes events to the ring.

use agentguard_common::{
    audit::{AuditEvent, Counters, EventKind, Hook},
    capacity::{AUDIT_RING_BYTES, EVENT_BUDGET_BURST, EVENT_BUDGET_RATE, MAX_IDENTITIES},
    cgroup::Rank,
    connection::{Address, Direction, Protocol},
    identity::{AgentId, FLAG_QUIET},
    limit::take,
    process::NO_EXEC,
    verdict::{Reason, Verdict},
};
use aya_ebpf::{
    EbpfContext,
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::generated::{bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_ringbuf_query},
    macros::btf_map,
};

use crate::{atomic, policy::Active, tag::Tag, verdict::Judgement};

/// Events on their way to the daemon, the only reader.
#[btf_map]
static AUDIT_EVENTS: RingBuf<AuditEvent, { AUDIT_RING_BYTES as usize }> = RingBuf::new();

/// Totals by identity. Only the programs write, atomically: a program in softirq can interrupt one
/// in process context on the same CPU.
#[btf_map]
static COUNTERS: PerCpuArray<Counters, { MAX_IDENTITIES as usize }> = PerCpuArray::new();

/// When the budget of each identity is whole again. Only the programs write.
#[btf_map]
static EVENT_BUDGETS: Array<u64, { MAX_IDENTITIES as usize }> = Array::new();

/// What an event tells besides the judgement and the task.
pub struct Subject {
    pub kind: EventKind,
    pub hook: Hook,
    pub direction: Direction,
    pub protocol: Protocol,
    pub local: Address,
    pub remote: Address,
    pub local_port: u16,
    pub remote_port: u16,
}

/// What a flow amounted to.
#[derive(Default)]
#[repr(C)]
pub struct Totals {
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub packets_in: u64,
    pub duration_ns: u64,
}

/// The ground on which an event stands.
#[derive(Clone, Copy)]
pub struct Ground {
    pub identity: AgentId,
    pub generation: u64,
    pub verdict: Verdict,
    pub reason: Reason,
    pub rule: u32,
}

/// Counts a judgement, and writes an event of it unless it is a pass that nobody asks about.
#[inline(always)]
pub fn record(
    context: &impl EbpfContext,
    active: Active,
    judgement: &Judgement,
    tag: Option<&Tag>,
    subject: &Subject,
    now_ns: u64,
) {
    let Some(counters) = count(judgement) else {
        return;
    };
    if judgement.decision.verdict == Verdict::Allow && judgement.record.has(FLAG_QUIET) {
        return;
    }
    let ground = Ground {
        identity: judgement.identity,
        generation: active.generation,
        verdict: judgement.decision.verdict,
        reason: judgement.decision.reason,
        rule: judgement.decision.rule,
    };
    write(context, counters, ground, tag, subject, None, now_ns);
}

/// Counts a judgement.
#[inline(always)]
pub fn count(judgement: &Judgement) -> Option<*mut Counters> {
    let counters = counters_of(judgement.identity)?;
    // SAFETY: the value is this CPU's and lives as long as the map.
    unsafe {
        match judgement.decision.verdict {
            Verdict::Allow => atomic::add(&raw mut (*counters).allowed, 1),
            Verdict::Deny => atomic::add(&raw mut (*counters).denied, 1),
            Verdict::WouldDeny => atomic::add(&raw mut (*counters).would_deny, 1),
        }
    }
    Some(counters)
}

/// Counts the end of a flow and writes its event, unless its identity is quiet.
#[inline(always)]
pub fn record_close(
    context: &impl EbpfContext,
    active: Active,
    ground: Ground,
    tag: &Tag,
    subject: &Subject,
    totals: &Totals,
    now_ns: u64,
) {
    let Some(counters) = counters_of(ground.identity) else {
        return;
    };
    // SAFETY: as in `record`.
    unsafe {
        atomic::add(&raw mut (*counters).closed, 1);
        atomic::add(&raw mut (*counters).bytes_out, totals.bytes_out);
        atomic::add(&raw mut (*counters).bytes_in, totals.bytes_in);
    }
    if !active.record(ground.identity).has(FLAG_QUIET) {
        write(
            context,
            counters,
            ground,
            Some(tag),
            subject,
            Some(totals),
            now_ns,
        );
    }
}

#[inline(always)]
fn counters_of(identity: AgentId) -> Option<*mut Counters> {
    COUNTERS.get_ptr_mut(identity.0)
}

/// Whether an event of `identity` is not to be written, which is counted. A global function: the verifier
/// looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_over_budget(identity: u32, now_ns: u64) -> u32 {
    if !is_crowded() || is_within_budget(AgentId(identity), now_ns) {
        return 0;
    }
    if let Some(counters) = counters_of(AgentId(identity)) {
        // SAFETY: as in `record`.
        unsafe { atomic::add(&raw mut (*counters).events_over_budget, 1) };
    }
    1
}

/// Whether more than half of the ring is taken.
#[inline(always)]
fn is_crowded() -> bool {
    const TAKEN: u64 = 0; // `BPF_RB_AVAIL_DATA`
    // SAFETY: the map lives as long as the program.
    let taken = unsafe { bpf_ringbuf_query((&raw const AUDIT_EVENTS).cast_mut().cast(), TAKEN) };
    taken > u64::from(AUDIT_RING_BYTES / 2)
}

/// Takes an event from the budget of `identity`. Who loses the exchange again and again has seen others
/// of its own succeed.
#[inline(always)]
fn is_within_budget(identity: AgentId, now_ns: u64) -> bool {
    const COST_NS: u64 = 1_000_000_000 / EVENT_BUDGET_RATE as u64;
    const BURST_NS: u64 = COST_NS * EVENT_BUDGET_BURST as u64;
    let Some(full) = EVENT_BUDGETS.get_ptr_mut(identity.0) else {
        return true;
    };
    // SAFETY: an aligned u64 of a live map value.
    unsafe {
        let mut seen = atomic::load(full);
        for _ in 0..8 {
            let Some(next) = take(seen, now_ns, COST_NS, BURST_NS) else {
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

#[inline(always)]
fn write(
    context: &impl EbpfContext,
    counters: *mut Counters,
    ground: Ground,
    tag: Option<&Tag>,
    subject: &Subject,
    totals: Option<&Totals>,
    now_ns: u64,
) {
    // SAFETY: as in `record`.
    let cpu_sequence = unsafe { atomic::fetch_add(&raw mut (*counters).events_produced, 1) } + 1;
    if count_over_budget(ground.identity.0, now_ns) != 0 {
        return;
    }
    let Some(mut entry) = AUDIT_EVENTS.reserve(0) else {
        // SAFETY: as in `record`.
        unsafe { atomic::add(&raw mut (*counters).events_dropped, 1) };
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: `event` is a whole reserved record, and every field of it is written; field by field,
    // since a copy on the stack would leave too little of its 512 bytes. The cookie helper takes the
    // context of each program type used here.
    unsafe {
        (*event).time_ns = now_ns;
        (*event).generation = ground.generation;
        (*event).socket_cookie = bpf_get_socket_cookie(context.as_ptr());
        (*event).identity = ground.identity;
        (*event).rule = ground.rule;
        (*event).verdict = ground.verdict;
        (*event).reason = ground.reason;
        (*event).local = subject.local;
        (*event).remote = subject.remote;
        (*event).local_port = subject.local_port;
        (*event).remote_port = subject.remote_port;
        (*event).kind = subject.kind;
        (*event).direction = subject.direction;
        (*event).protocol = subject.protocol;
        (*event).hook = subject.hook;
        (*event).cpu_sequence = cpu_sequence;
        (*event).cpu = bpf_get_smp_processor_id() as u16;
        (*event).reserved = [0; 2];
        if let Some(tag) = tag {
            (*event).exec_id = tag.exec_id;
            (*event).facts = tag.facts;
            (*event).facts_known = if tag.facts_generation == ground.generation {
                tag.facts_known
            } else {
                0
            };
            (*event).rank = tag.rank;
            (*event).cgroup_id = tag.cgroup_id;
            (*event).pid = tag.pid;
            (*event).uid = tag.uid;
            (&raw mut (*event).comm).cast::<[u64; 2]>().write(tag.comm);
        } else {
            (*event).exec_id = NO_EXEC;
            (*event).facts = 0;
            (*event).facts_known = 0;
            (*event).rank = Rank::Default;
            (*event).cgroup_id = 0;
            (*event).pid = 0;
            (*event).uid = 0;
            (*event).comm = [0; 16];
        }
        if let Some(totals) = totals {
            (*event).bytes_out = totals.bytes_out;
            (*event).bytes_in = totals.bytes_in;
            (*event).packets_out = totals.packets_out;
            (*event).packets_in = totals.packets_in;
            (*event).duration_ns = totals.duration_ns;
        } else {
            (*event).bytes_out = 0;
            (*event).bytes_in = 0;
            (*event).packets_out = 0;
            (*event).packets_in = 0;
            (*event).duration_ns = 0;
        }
    }
    // The kernel wakes a daemon that waits, and no other: see `daemon/batch.rs`.
    entry.submit(0);
}
