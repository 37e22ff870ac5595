//! How the process holds memory.

/// Keeps all that is allocated in one heap: of any other heap the C library cannot give back what is
/// free at its end (glibc, `malloc_trim`), and that is where a policy is read. To be called before there
/// is a second thread.
pub fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no precondition; on failure all stays as it is, which costs memory only.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Gives freed memory back to the kernel. Reading a large policy takes several times the memory that
/// it needs once it is in force, and the C library keeps what is freed.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no precondition; it takes the locks of the allocator itself.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
