//! Sockets: tagged as they are made, accounted as they are released.
//!
//! # Minimum kernel version
//!
//! 4.10 for `sock_create`, 5.9 for `sock_release`. Both see IPv4 and IPv6 sockets only.

use agentguard_common::{
    audit::{EventKind, Hook},
    connection::{Address, Direction, Protocol},
    identity::{FLAG_RAW_SOCKETS, FLAG_RESTRICTED, IdentityRecord},
    policy::NO_RULE,
    verdict::{Decision, Reason, Verdict},
};
use aya_ebpf::{helpers::generated::bpf_set_retval, macros::cgroup_sock, programs::SockContext};

use super::{PASS, REFUSE, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};
use crate::{
    audit::{self, Subject},
    clock, flow, identity, layout, mark, policy, tag,
    verdict::Judgement,
};

const IPPROTO_ICMP: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_ICMPV6: u32 = 58;
const IPPROTO_MPTCP: u32 = 262;

const EPROTONOSUPPORT: i32 = 93;

/// `TCP_CLOSE` and `TCP_LISTEN` of `enum` in `include/net/tcp_states.h`.
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

#[cgroup_sock(sock_create)]
fn sock_create(context: SockContext) -> i32 {
    let Some(active) = policy::active() else {
        return PASS;
    };
    let found = identity::of_current(active);
    let caller = found.identity;
    let record = active.record(caller);
    let Some(tag) = tag::of_socket_or_new(context.sock.cast()) else {
        // No memory for a tag: a restricted identity gets no socket that nothing could judge.
        return if record.has(FLAG_RESTRICTED) {
            REFUSE
        } else {
            PASS
        };
    };
    tag.identity = caller;
    tag.note_task(active, &found);
    mark::socket(context.sock, &record);
    // SAFETY: the context of the running program.
    let (kind, protocol) = unsafe { ((*context.sock).type_, (*context.sock).protocol) };
    let Some(reason) = objection(&record, kind, protocol) else {
        return PASS;
    };
    let judgement = Judgement {
        identity: caller,
        record,
        decision: Decision::refuse(&record, reason, NO_RULE),
    };
    let subject = Subject {
        kind: EventKind::Socket,
        hook: Hook::SockCreate,
        direction: Direction::Egress,
        protocol: Protocol::from_ip(protocol as u8),
        local: Address::default(),
        remote: Address::default(),
        local_port: protocol as u16,
        remote_port: kind as u16,
    };
    audit::record(
        &context,
        active,
        &judgement,
        Some(tag),
        &subject,
        clock::now_ns(),
    );
    match judgement.decision.verdict {
        Verdict::Allow | Verdict::WouldDeny => PASS,
        Verdict::Deny => {
            // Applications that try MPTCP first fall back to TCP on this errno, and on no other.
            if protocol == IPPROTO_MPTCP && layout::HAS_SET_RETVAL.load() == 1 {
                // SAFETY: has no precondition in this program type.
                unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
            }
            REFUSE
        }
    }
}

/// Why a restricted identity may not have such a socket.
#[inline(always)]
fn objection(record: &IdentityRecord, kind: u32, protocol: u32) -> Option<Reason> {
    if !record.has(FLAG_RESTRICTED) {
        return None;
    }
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) | (SOCK_DGRAM, IPPROTO_UDP | IPPROTO_ICMP | IPPROTO_ICMPV6) => {
            None
        }
        (SOCK_RAW, _) if record.has(FLAG_RAW_SOCKETS) => None,
        (SOCK_RAW, _) => Some(Reason::RawSocket),
        // A kernel thread opens further MPTCP subflows in nobody's name; the rest have flows that no
        // hook sees opening.
        _ => Some(Reason::SocketType),
    }
}

#[cgroup_sock(sock_release)]
fn sock_release(context: SockContext) -> i32 {
    let Some(active) = policy::active() else {
        return PASS;
    };
    let Some(tag) = tag::of_socket(context.sock.cast()) else {
        return PASS;
    };
    // SAFETY: the context of the running program.
    let (protocol, state) = unsafe { ((*context.sock).protocol, (*context.sock).state) };
    // A TCP flow goes on after `close()` until its data is sent: `sock_ops` sees that end, but for
    // sockets that are older than the programs.
    let is_over = state == TCP_CLOSE || state == TCP_LISTEN || tag.enrolled == 1;
    if protocol != IPPROTO_TCP || is_over {
        flow::close(&context, active, tag, Hook::SockRelease, clock::now_ns());
    }
    PASS
}
