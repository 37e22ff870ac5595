//! Datagrams that name their destination: `sendto()`, `sendmsg()`, `sendmmsg()` on UDP sockets.
//!
//! # Minimum kernel version
//!
//! 4.18. It does not see raw and ping sockets, nor `send()` on a connected socket.

use agentguard_common::audit::Hook;
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::connect::{open_outbound, remote_v4, remote_v6};

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(context: SockAddrContext) -> i32 {
    open_outbound(&context, remote_v4(&context), Hook::Sendmsg)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(context: SockAddrContext) -> i32 {
    open_outbound(&context, remote_v6(&context), Hook::Sendmsg)
}
