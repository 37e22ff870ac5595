//! Flows: one connected socket, or one UDP socket and peer, from open to close.

use agentguard_common::{
    audit::{EventKind, Hook},
    connection::{Address, Connection, Protocol},
    verdict::{Decision, Verdict},
};
use aya_ebpf::EbpfContext;

use crate::{
    atomic,
    audit::{self, Ground, Subject, Totals},
    limit,
    policy::Active,
    tag::{Flow, Tag},
    verdict::Judgement,
};

/// What became of a flow that asked to be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It is open.
    Yes,
    /// Policy refuses it.
    Refused,
    /// A limit is reached.
    Limited,
}

/// Opens a flow that was let pass and that its limits have room for, or records why not.
///
/// A socket has one flow at a time: one to another peer ends the former, but where it is refused. A repeat of the open one
/// is nothing new.
#[inline(always)]
pub fn open(
    context: &impl EbpfContext,
    active: Active,
    judgement: &Judgement,
    tag: &mut Tag,
    connection: &Connection,
    hook: Hook,
    now_ns: u64,
) -> Opened {
    let mut judgement = *judgement;
    let mut opened = Opened::Refused;
    let mut is_told = true;
    if judgement.passes() {
        let decision = judgement.decision;
        if tag.flow.continues(active, connection, decision.verdict) {
            return Opened::Yes;
        }
        let answer = limit::admit(
            active,
            &judgement.record,
            decision.rule,
            tag,
            connection,
            now_ns,
        );
        // What is only recorded opens anyway, and its opening is told of in any case.
        if answer.is_over() && !(answer.is_audit() && answer.is_silent()) {
            judgement.decision = Decision {
                verdict: if answer.is_audit() {
                    Verdict::WouldDeny
                } else {
                    Verdict::Deny
                },
                reason: answer.reason(),
                rule: decision.rule,
            };
        }
        if answer.refuses() {
            opened = Opened::Limited;
            is_told = !answer.is_silent();
        } else {
            opened = Opened::Yes;
            close(context, active, tag, hook, now_ns);
            tag.turn_held();
            let flow = &mut tag.flow;
            flow.opened_ns = now_ns;
            flow.remote = connection.remote;
            flow.remote_port = connection.remote_port;
            flow.local_port = connection.local_port;
            flow.direction = connection.direction;
            flow.protocol = connection.protocol;
            flow.verdict = decision.verdict;
            flow.reason = decision.reason;
            flow.rule = decision.rule;
            flow.generation = active.generation;
            // SAFETY: an aligned u64 of a live map value.
            unsafe { atomic::exchange(&raw mut flow.open, 1) };
        }
    }
    if !is_told {
        audit::count(&judgement);
        return opened;
    }
    let subject = Subject {
        kind: EventKind::Connection,
        hook,
        direction: connection.direction,
        protocol: connection.protocol,
        local: Address::default(),
        remote: connection.remote,
        local_port: connection.local_port,
        remote_port: connection.remote_port,
    };
    audit::record(context, active, &judgement, Some(tag), &subject, now_ns);
    opened
}

/// Adds a packet that was let pass.
#[inline(always)]
pub fn count(tag: &mut Tag, outbound: bool, bytes: u64, packets: u64) {
    let flow = &mut tag.flow;
    // SAFETY: aligned u64s of a live map value.
    unsafe {
        if outbound {
            atomic::add(&raw mut flow.bytes_out, bytes);
            atomic::add(&raw mut flow.packets_out, packets);
        } else {
            atomic::add(&raw mut flow.bytes_in, bytes);
            atomic::add(&raw mut flow.packets_in, packets);
        }
    }
}

/// Takes a count away. Most flows of which there are very many carry nothing, and to look is cheaper
/// than to exchange.
///
/// # Safety
///
/// An aligned u64 of a live map value.
#[inline(always)]
unsafe fn take_any(count: *mut u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        match atomic::load(count) {
            0 => 0,
            _ => atomic::take(count),
        }
    }
}

/// Ends `flow` if it is open, and takes what it amounted to. A global function: its ways are looked at once,
/// and not again with all that follows.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_totals(flow: *mut Flow, totals: *mut Totals, now_ns: u64) -> u32 {
    // The verifier does not know that nobody passes null.
    if flow.is_null() || totals.is_null() {
        return 0;
    }
    // SAFETY: aligned u64s of a live map value, and a whole value on the caller's stack.
    unsafe {
        if atomic::take(&raw mut (*flow).open) != 1 {
            return 0;
        }
        (*totals).bytes_out = take_any(&raw mut (*flow).bytes_out);
        (*totals).bytes_in = take_any(&raw mut (*flow).bytes_in);
        (*totals).packets_out = take_any(&raw mut (*flow).packets_out);
        (*totals).packets_in = take_any(&raw mut (*flow).packets_in);
        (*totals).duration_ns = now_ns.saturating_sub((*flow).opened_ns);
    }
    1
}

/// Ends the open flow, if there is one, and reports what it amounted to. Whichever hook comes first
/// reports; the others find it closed.
#[inline(always)]
pub fn close(context: &impl EbpfContext, active: Active, tag: &mut Tag, hook: Hook, now_ns: u64) {
    // SAFETY: an aligned u64 of a live map value.
    if unsafe { atomic::take(&raw mut tag.enrolled) } == 1 {
        limit::give_back(active, tag.held());
    }
    let mut totals = Totals::default();
    if take_totals(&raw mut tag.flow, &raw mut totals, now_ns) == 0 {
        return;
    }
    limit::give_back(active, tag.held());
    let flow = &tag.flow;
    // `connect()` on a UDP socket sends nothing; name resolution does it only to sort addresses.
    if !matches!(flow.protocol, Protocol::Tcp) && totals.packets_out == 0 && totals.packets_in == 0
    {
        return;
    }
    let ground = Ground {
        identity: tag.identity,
        generation: flow.generation,
        verdict: flow.verdict,
        reason: flow.reason,
        rule: flow.rule,
    };
    let subject = Subject {
        kind: EventKind::Closed,
        hook,
        direction: flow.direction,
        protocol: flow.protocol,
        local: Address::default(),
        remote: flow.remote,
        local_port: flow.local_port,
        remote_port: flow.remote_port,
    };
    audit::record_close(context, active, ground, tag, &subject, &totals, now_ns);
}
