//! `connect()`: the early, friendly refusal. The packets are judged again by `hooks/packet.rs`.
//!
//! # Minimum kernel version
//!
//! 4.17; `sk` in the context 5.3. It does not see unconnected datagrams, raw and ping sockets that
//! send without connecting, and established connections.

use agentguard_common::{
    audit::Hook,
    connection::{Address, Connection, Direction, Protocol},
    identity::{FLAG_RESTRICTED, NEVER},
    verdict::Verdict,
};
use aya_ebpf::{
    helpers::generated::bpf_set_retval, macros::cgroup_sock_addr, programs::SockAddrContext,
};

use super::{PASS, REFUSE};
use crate::{
    clock,
    flow::{self, Opened},
    identity, layout, mark, policy,
    tag::{self, Origin},
    verdict::Judgement,
};

const EAGAIN: i32 = 11;

#[cgroup_sock_addr(connect4)]
fn connect4(context: SockAddrContext) -> i32 {
    open_outbound(&context, remote_v4(&context), Hook::Connect)
}

#[cgroup_sock_addr(connect6)]
fn connect6(context: SockAddrContext) -> i32 {
    open_outbound(&context, remote_v6(&context), Hook::Connect)
}

/// The IPv4 address that the call names.
#[inline(always)]
pub(super) fn remote_v4(context: &SockAddrContext) -> Address {
    // SAFETY: the context of the running program.
    Address::from_v4(unsafe { (*context.sock_addr).user_ip4 }.to_ne_bytes())
}

/// The IPv6 address that the call names; an IPv4-mapped one is the IPv4 address it stands for.
#[inline(always)]
pub(super) fn remote_v6(context: &SockAddrContext) -> Address {
    // SAFETY: as above.
    Address::from_words(unsafe { (*context.sock_addr).user_ip6 })
}

/// The port that the call names, in host byte order.
#[inline(always)]
pub(super) fn named_port(context: &SockAddrContext) -> u16 {
    // SAFETY: as above. The field holds a big-endian u16 in its low half.
    u16::from_be(unsafe { (*context.sock_addr).user_port } as u16)
}

/// Judges a flow that the running task opens to `remote`, for the task and for the socket.
#[inline(always)]
pub(super) fn open_outbound(context: &SockAddrContext, remote: Address, hook: Hook) -> i32 {
    let Some(active) = policy::active() else {
        return PASS;
    };
    let found = identity::of_current(active);
    let caller = found.identity;
    // SAFETY: the context of the running program.
    let (socket, protocol) = unsafe {
        (
            (*context.sock_addr).__bindgen_anon_1.sk,
            (*context.sock_addr).protocol,
        )
    };
    if socket.is_null() {
        return PASS;
    }
    // SAFETY: the verifier knows it as a socket and it is not null.
    let local_port = unsafe { (*socket).src_port } as u16;
    let connection = Connection {
        direction: Direction::Egress,
        protocol: Protocol::from_ip(protocol as u8),
        remote: remote.destination(),
        remote_port: named_port(context),
        local_port,
    };
    let tag = match tag::of_socket(socket.cast()) {
        Some(tag) => tag,
        // A socket without a tag is older than the programs, or a kernel thread made it. The packet
        // hooks will tag it by its own cgroup: here the caller may be a kernel thread that acts for
        // somebody else, as for MPTCP subflows. Only a restricted caller claims it at once.
        None if !active.record(caller).has(FLAG_RESTRICTED) => return PASS,
        None => match tag::of_socket_or_new(socket.cast()) {
            Some(tag) => tag,
            // Without memory for a tag the flow could not be attributed later.
            None => return REFUSE,
        },
    };
    let ends = tag::ends_outbound(caller, &connection);
    // The clock is read only where it can matter.
    let expires_ns = active.record(caller).expires_ns;
    let passed_before = caller == tag.identity
        && (expires_ns == NEVER || clock::now_ns() < expires_ns)
        && tag.passed[0].holds(active.generation, &connection.remote, ends)
        && tag.flow.continues(active, &connection, tag.flow.verdict);
    if passed_before {
        return PASS;
    }
    let now_ns = clock::now_ns();
    let judgement = Judgement::of_both(active, caller, tag.identity, &connection, now_ns);
    tag.note_task(active, &found);
    tag.claim(active, caller);
    mark::caller(context, socket, tag, &active.record(tag.identity));
    tag.origin = Origin::Outbound;
    // The packets of the flow would be judged in just the same way. Datagrams need not follow.
    if matches!(connection.protocol, Protocol::Tcp)
        && judgement.decision.verdict == Verdict::Allow
        && tag.identity == caller
    {
        tag.passed[0].remember(active.generation, &connection.remote, ends);
    }
    match flow::open(context, active, &judgement, tag, &connection, hook, now_ns) {
        Opened::Yes => PASS,
        Opened::Refused => REFUSE,
        Opened::Limited => {
            // Policy allows it, and a later try may succeed.
            if layout::HAS_SET_RETVAL.load() == 1 {
                // SAFETY: has no precondition in this program type.
                unsafe { bpf_set_retval(-EAGAIN) };
            }
            REFUSE
        }
    }
}
