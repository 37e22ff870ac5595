//! The no-op hook: programs that do nothing but pass, wherever agentguard has one.

use std::{fs::File, os::fd::OwnedFd, path::Path};

use anyhow::{Context as _, Result};

use super::system;

/// `r0 = 1; exit`, as `struct bpf_insn` in words.
const PASS: [u64; 2] = [0x1_0000_00b7, 0x95];

/// `enum bpf_prog_type`.
const CGROUP_SKB: u32 = 8;
const CGROUP_SOCK: u32 = 9;
const SOCK_OPS: u32 = 13;
const CGROUP_SOCK_ADDR: u32 = 18;

/// Program type and `enum bpf_attach_type` of each place: what agentguard attaches to.
const PLACES: [(u32, u32, &str); 11] = [
    (CGROUP_SKB, 0, "ingress"),
    (CGROUP_SKB, 1, "egress"),
    (CGROUP_SOCK, 2, "sock_create"),
    (SOCK_OPS, 3, "sock_ops"),
    (CGROUP_SOCK_ADDR, 8, "bind4"),
    (CGROUP_SOCK_ADDR, 9, "bind6"),
    (CGROUP_SOCK_ADDR, 10, "connect4"),
    (CGROUP_SOCK_ADDR, 11, "connect6"),
    (CGROUP_SOCK_ADDR, 14, "sendmsg4"),
    (CGROUP_SOCK_ADDR, 15, "sendmsg6"),
    (CGROUP_SOCK, 34, "sock_release"),
];

/// Attaches them all; they stay for as long as the links are kept.
pub(super) fn attach(cgroup: &Path) -> Result<Vec<OwnedFd>> {
    let cgroup = File::open(cgroup).context("cannot open the cgroup")?;
    PLACES
        .iter()
        .map(|&(kind, place, name)| {
            let program = system::load_program(kind, place, &PASS)
                .with_context(|| format!("cannot load a no-op {name} program"))?;
            system::attach_program(&program, &cgroup, place)
                .with_context(|| format!("cannot attach a no-op {name} program"))
        })
        .collect()
}
