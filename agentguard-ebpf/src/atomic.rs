//! Atomic operations that the BPF back end cannot make from `core::sync::atomic`.
//!
//! rustc says `atomic_cas = false` for the target, so compare-and-exchange and its like do not exist
//! in `core`; the instructions do, since Linux 5.12 (BPF ISA v3).

use core::arch::asm;

/// Adds `value` to `*target`.
///
/// # Safety
///
/// `target` points to a live, aligned u64 in a map value.
#[inline(always)]
pub unsafe fn add(target: *mut u64, value: u64) {
    // SAFETY: the caller vouches for `target`; the instruction touches nothing else.
    unsafe {
        asm!("lock *(u64 *)({target} + 0) += {value}", target = in(reg) target, value = in(reg) value, options(nostack));
    }
}

/// Adds `value` to `*target` and returns what was there. A full barrier.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn fetch_add(target: *mut u64, value: u64) -> u64 {
    let former: u64;
    // SAFETY: as for `add`.
    unsafe {
        asm!("{value} = atomic_fetch_add((u64 *)({target} + 0), {value})", target = in(reg) target, value = inlateout(reg) value => former, options(nostack));
    }
    former
}

/// Stores `value` in `*target` and returns what was there. A full barrier.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn exchange(target: *mut u64, value: u64) -> u64 {
    let former: u64;
    // SAFETY: as for `add`.
    unsafe {
        asm!("{value} = xchg_64({target} + 0, {value})", target = in(reg) target, value = inlateout(reg) value => former, options(nostack));
    }
    former
}

/// Stores 0 in `*target` and returns what was there. What is 0 already is left alone: looking costs
/// less than a barrier, and what somebody adds meanwhile is there for the next who takes.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn take(target: *mut u64) -> u64 {
    // SAFETY: as for `add`.
    unsafe {
        if load(target) == 0 {
            0
        } else {
            exchange(target, 0)
        }
    }
}

/// Stores `new` in `*target` if it holds `old`; returns what it held. A full barrier.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn compare_exchange(target: *mut u64, old: u64, new: u64) -> u64 {
    let former: u64;
    // SAFETY: as for `add`.
    unsafe {
        asm!("r0 = cmpxchg_64({target} + 0, r0, {new})", target = in(reg) target, new = in(reg) new, inlateout("r0") old => former, options(nostack));
    }
    former
}

/// Reads `*target` once, as it is now.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn load(target: *const u64) -> u64 {
    // SAFETY: the caller vouches for `target`.
    unsafe { core::ptr::read_volatile(target) }
}

/// Writes `*target` once.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn store(target: *mut u64, value: u64) {
    // SAFETY: the caller vouches for `target`.
    unsafe { core::ptr::write_volatile(target, value) }
}
