//! What the kernel programs and the daemon must agree on: wire types, map capacities, the order of
//! lookups and the decision itself.
//!
//! Nothing here does I/O, allocates or knows aya's kernel side. A type crosses the kernel boundary
//! only as `repr(C)` without padding; enums cross as `u8` and are checked on the way back.
#![no_std]

pub mod audit;
pub mod capacity;
pub mod cgroup;
pub mod connection;
pub mod executable;
pub mod fact;
pub mod identity;
pub mod limit;
#[cfg(feature = "user")]
mod pod;
pub mod policy;
pub mod process;
pub mod verdict;

/// Version of every layout in this crate. Raise it when one changes: a daemon adopts pinned maps of
/// its own version only.
pub const ABI_VERSION: u32 = 6;
