//! Memory that the process does not need any more.

/// Gives freed memory back to the kernel. Reading a large policy takes several times the memory that
/// it needs once it is in force, and the C library keeps what is freed.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no precondition; it takes the locks of the allocator itself.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
