//! The kernel side of agentguard.
//!
//! | attach point | file | does |
//! |---|---|---|
//! | `cgroup/connect4`, `connect6` | `hooks/connect.rs` | judges the asked destination, opens the flow |
//! | `cgroup/sendmsg4`, `sendmsg6` | `hooks/sendmsg.rs` | the same for unconnected UDP |
//! | `cgroup/bind4`, `bind6` | `hooks/bind.rs` | may this identity listen here |
//! | `cgroup/sock_create`, `sock_release` | `hooks/socket.rs` | tags sockets, refuses types, closes flows |
//! | `cgroup_skb/egress`, `ingress` | `hooks/packet.rs` | judges every packet: the authority |
//! | `sock_ops` | `hooks/tcp.rs` | opens accepted flows, closes TCP flows |
//! | `tp_btf/cgroup_mkdir`, `rmdir`, `attach_task` | `hooks/cgroup.rs` | tells the daemon of cgroups |
//! | `tp_btf/sched_process_fork`, `exec`, `exit` | `hooks/process.rs` | labels processes by executable |
//! | `iter/task` | `hooks/relabel.rs` | labels running processes for a new generation |
//! | `iter/task_file` | `hooks/enrol.rs` | tags sockets that were open before |
//!
//! The programs are attached once, at an ancestor of everybody they judge: which program runs
//! follows the socket's cgroup, whom it judges is found inside.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod audit;
mod clock;
mod executable;
mod fact;
mod flow;
mod headers;
mod hooks;
mod identity;
mod layout;
mod limit;
mod mark;
mod path;
mod policy;
mod process;
mod storage;
mod tag;
mod task;
mod verdict;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers that the programs call are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
