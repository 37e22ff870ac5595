//! The one clock of the programs: it counts through suspend and cannot be set.

/// Nanoseconds since boot (`CLOCK_BOOTTIME`).
///
/// # Minimum kernel version
///
/// 5.8.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes no argument and has no precondition.
    unsafe { aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns() }
}
