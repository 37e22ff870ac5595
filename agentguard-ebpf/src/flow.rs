//! Flows: one connected socket, or one UDP socket and peer, from open to close.

use agentguard_common::{
    audit::{EventKind, Hook},
    connection::{Address, Connection, Protocol},
    verdict::{Reason, Verdict},
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
    if judgement.decision.verdict == Verdict::Allow {
        if tag.flow.is_to(
            &connection.remote,
            connection.remote_port,
            connection.protocol,
        ) && tag.flow.generation == active.generation
        {
            return;
        }
        close(context, active, tag, hook, now_ns);
        tag.flow.opened_ns = now_ns;
        tag.flow.remote = connection.remote;
        tag.flow.remote_port = connection.remote_port;
        tag.flow.local_port = connection.local_port;
        tag.flow.direction = connection.direction as u8;
        tag.flow.protocol = connection.protocol as u8;
        tag.flow.rule = judgement.decision.rule;
        tag.flow.generation = active.generation;
        // SAFETY: an aligned u64 of a live map value.
        unsafe { atomic::exchange(&raw mut tag.flow.open, 1) };
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

/// Ends the open flow, if there is one, and reports what it amounted to. Whichever hook comes first
/// reports; the others find it closed.
#[inline(always)]
pub fn close(context: &impl EbpfContext, active: Active, tag: &mut Tag, hook: Hook, now_ns: u64) {
    let flow = &raw mut tag.flow;
    // SAFETY: aligned u64s of a live map value.
    let totals = unsafe {
        if atomic::exchange(&raw mut (*flow).open, 0) != 1 {
            return;
        }
        Totals {
            bytes_out: atomic::exchange(&raw mut (*flow).bytes_out, 0),
            bytes_in: atomic::exchange(&raw mut (*flow).bytes_in, 0),
            packets_out: atomic::exchange(&raw mut (*flow).packets_out, 0),
            packets_in: atomic::exchange(&raw mut (*flow).packets_in, 0),
            duration_ns: now_ns.saturating_sub((*flow).opened_ns),
        }
    };
    let flow = &tag.flow;
    // `connect()` on a UDP socket sends nothing; name resolution does it only to sort addresses.
    if flow.protocol() != Protocol::Tcp && totals.packets_out == 0 && totals.packets_in == 0 {
        return;
    }
    let ground = Ground {
        identity: tag.identity,
        generation: flow.generation,
        verdict: Verdict::Allow,
        reason: if flow.rule == 0 {
            Reason::Unrestricted
        } else {
            Reason::Rule
        },
        rule: flow.rule,
    };
    let subject = Subject {
        kind: EventKind::Closed,
        hook,
        direction: flow.direction(),
        protocol: flow.protocol(),
        local: Address::default(),
        remote: flow.remote,
        local_port: flow.local_port,
        remote_port: flow.remote_port,
    };
    audit::record_close(context, active, ground, tag, &subject, &totals, now_ns);
}
