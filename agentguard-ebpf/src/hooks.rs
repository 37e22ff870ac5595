//! The programs, one file for each kind of attach point.

mod bind;
mod cgroup;
mod connect;
mod enrol;
mod packet;
mod process;
mod relabel;
mod sendmsg;
mod socket;
mod tcp;

/// What a cgroup program returns to let the call or packet pass.
const PASS: i32 = 1;
/// What it returns to refuse it; the caller sees EPERM.
const REFUSE: i32 = 0;

/// Socket types and families as user space numbers them.
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
