//! Flows: one connected socket, or one UDP socket and peer, from open to close.

use agentguard_common::{
    audit::{EventKind, Hook},
    connection::{Address, Connection, Protocol},
};
use aya_ebpf::EbpfContext;

use crate::{
    atomic,
    audit::{self, Ground, Subject, Totals},
    policy::Active,
    tag::Tag,
    verdict::Judgement,
};

/// Opens a flow that was let pass, or records why it was not.
///
/// A socket has one flow at a time: one to another peer ends the former. A repeat of the open one
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
) {
    let decision = judgement.decision;
    if judgement.passes() {
        if tag.flow.continues(active, connection, decision.verdict) {
            return;
        }
        close(context, active, tag, hook, now_ns);
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
    audit::record(context, active, judgement, Some(tag), &subject, now_ns);
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

/// Ends the open flow, if there is one, and reports what it amounted to. Whichever hook comes first
/// reports; the others find it closed.
#[inline(always)]
pub fn close(context: &impl EbpfContext, active: Active, tag: &mut Tag, hook: Hook, now_ns: u64) {
    let flow = &raw mut tag.flow;
    // SAFETY: aligned u64s of a live map value.
    let totals = unsafe {
        if atomic::take(&raw mut (*flow).open) != 1 {
            return;
        }
        Totals {
            bytes_out: take_any(&raw mut (*flow).bytes_out),
            bytes_in: take_any(&raw mut (*flow).bytes_in),
            packets_out: take_any(&raw mut (*flow).packets_out),
            packets_in: take_any(&raw mut (*flow).packets_in),
            duration_ns: now_ns.saturating_sub((*flow).opened_ns),
        }
    };
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
