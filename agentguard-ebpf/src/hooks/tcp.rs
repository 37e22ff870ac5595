//! TCP flows as the stack sees them: accepted, and closed.
//!
//! # Minimum kernel version
//!
//! 4.13; `sk` in the context 5.7.

use agentguard_common::{
    audit::Hook,
    connection::{Address, Connection, Direction, Protocol},
};
use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};

use crate::{
    clock, flow, policy,
    tag::{self, Origin},
    verdict::Judgement,
};

/// What `sock_ops` programs return; only the reply field of the context would mean anything.
const DONE: u32 = 1;

const AF_INET: u32 = 2;
const TCP_CLOSE: u32 = 7;

#[sock_ops]
fn tcp_state(context: SockOpsContext) -> u32 {
    match context.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => watch_close(&context),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            watch_close(&context);
            open_accepted(&context);
        }
        BPF_SOCK_OPS_STATE_CB if context.arg(1) == TCP_CLOSE => close_flow(&context),
        _ => {}
    }
    DONE
}

/// Asks for the state changes of this socket. It can only fail for sockets that are not full yet.
#[inline(always)]
fn watch_close(context: &SockOpsContext) {
    let flags = context.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    if context.set_cb_flags(flags as i32).is_err() {
        // The flow is then closed by `sock_release`, with the bytes up to there.
    }
}

/// Opens the flow of an accepted socket. Its tag is a copy of the listener's.
///
/// It cannot be refused here: the handshake is over. `hooks/packet.rs` refused the SYN if it had to.
#[inline(always)]
fn open_accepted(context: &SockOpsContext) {
    let Some(active) = policy::active() else {
        return;
    };
    // SAFETY: the context of the running program.
    let socket = unsafe { (*context.ops).__bindgen_anon_2.sk };
    let Some(tag) = tag::of_socket(socket.cast()) else {
        return;
    };
    tag.origin = Origin::Inbound;
    let remote = if context.family() == AF_INET {
        Address::from_v4(context.remote_ip4().to_ne_bytes())
    } else {
        remote_v6(context)
    };
    let connection = Connection {
        direction: Direction::Ingress,
        protocol: Protocol::Tcp,
        remote,
        // The context has it in network byte order, in the upper half on little-endian machines.
        remote_port: u32::from_be(context.remote_port()) as u16,
        local_port: context.local_port() as u16,
    };
    let now_ns = clock::now_ns();
    let judgement = Judgement::of(active, tag.identity, &connection, now_ns);
    // It is there already: limits count it, and refuse the next ones.
    let _ = flow::open(
        context,
        active,
        &judgement,
        tag,
        &connection,
        Hook::SockOps,
        now_ns,
    );
}

/// The remote IPv6 address. The kernel lets only single words of it be read (`sock_ops_is_valid_access`),
/// so the compiler must not join them.
#[inline(always)]
fn remote_v6(context: &SockOpsContext) -> Address {
    // SAFETY: the context of the running program.
    Address::from_words(unsafe {
        let word = |index: usize| {
            let words = (&raw const (*context.ops).remote_ip6).cast::<u32>();
            core::ptr::read_volatile(words.add(index))
        };
        [word(0), word(1), word(2), word(3)]
    })
}

#[inline(always)]
fn close_flow(context: &SockOpsContext) {
    let Some(active) = policy::active() else {
        return;
    };
    // SAFETY: the context of the running program.
    let socket = unsafe { (*context.ops).__bindgen_anon_2.sk };
    let Some(tag) = tag::of_socket(socket.cast()) else {
        return;
    };
    flow::close(context, active, tag, Hook::SockOps, clock::now_ns());
}
