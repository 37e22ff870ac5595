//! The compiled kernel programs.

/// The ELF object of the kernel programs; empty if this was built without `cargo xtask build`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("AGENTGUARD_EBPF_OBJECT"));
