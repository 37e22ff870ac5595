//! `bind()`: may this identity listen here.
//!
//! # Minimum kernel version
//!
//! 4.17. It does not see `listen()` on a socket that was never bound; its peers get no answer,
//! since their packets are judged at ingress.

use agentguard_common::{
    audit::{EventKind, Hook},
    connection::{Address, Connection, Direction, Protocol},
    identity::AgentId,
};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::{
    PASS, REFUSE,
    connect::{named_port, remote_v4, remote_v6},
};
use crate::{
    audit::{self, Subject},
    clock, identity, policy, tag,
    verdict::Judgement,
};

#[cgroup_sock_addr(bind4)]
fn bind4(context: SockAddrContext) -> i32 {
    claim_port(&context, remote_v4(&context))
}

#[cgroup_sock_addr(bind6)]
fn bind6(context: SockAddrContext) -> i32 {
    claim_port(&context, remote_v6(&context))
}

/// Judges a local port for the running task and for the socket.
#[inline(always)]
fn claim_port(context: &SockAddrContext, local: Address) -> i32 {
    let local_port = named_port(context);
    // SAFETY: the context of the running program.
    let (socket, protocol) = unsafe {
        (
            (*context.sock_addr).__bindgen_anon_1.sk,
            (*context.sock_addr).protocol,
        )
    };
    let protocol = Protocol::from_ip(protocol as u8);
    // The kernel picks port 0, as it does for every client; raw and ping sockets have no ports.
    if local_port == 0 || !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
        return PASS;
    }
    let Some(active) = policy::active() else {
        return PASS;
    };
    let found = identity::of_current(active);
    let caller = found.identity;
    let tag = if socket.is_null() {
        None
    } else {
        tag::of_socket_or_new(socket.cast())
    };
    let owner = tag.as_ref().map_or(AgentId::NONE, |tag| tag.identity);
    let connection = Connection {
        direction: Direction::Bind,
        protocol,
        remote: Address::default(),
        remote_port: 0,
        local_port,
    };
    let now_ns = clock::now_ns();
    let judgement = Judgement::of_both(active, caller, owner, &connection, now_ns);
    let subject = Subject {
        kind: EventKind::Bind,
        hook: Hook::Bind,
        direction: Direction::Bind,
        protocol,
        local,
        remote: Address::default(),
        local_port,
        remote_port: 0,
    };
    if let Some(tag) = tag {
        tag.note_task(active, &found);
        tag.claim(active, caller);
        audit::record(context, active, &judgement, Some(tag), &subject, now_ns);
    } else {
        audit::record(context, active, &judgement, None, &subject, now_ns);
    }
    if judgement.passes() { PASS } else { REFUSE }
}
