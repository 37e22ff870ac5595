//! What an end-to-end test stands on: its own cgroups, network namespaces, daemon and probes.

pub mod agent;
pub mod audit;
pub mod cgroup;
pub mod crowd;
pub mod daemon;
pub mod flood;
pub mod foreign;
pub mod judge;
pub mod meter;
pub mod mounts;
pub mod network;
pub mod pinned;
pub mod podman;
pub mod probe;
pub mod requirements;
pub mod sandbox;
pub mod sniffer;
pub mod socket;
pub mod user;
pub mod world;
