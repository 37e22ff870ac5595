//! What can still be read of the process behind an event.

pub(super) mod scan;

use std::{fs::File, io::Read as _, os::unix::ffi::OsStrExt as _};

use nix::{
    fcntl::{OFlag, openat, readlinkat},
    sys::stat::Mode,
};

use crate::audit::Untrusted;

/// Nanoseconds of one tick of the times in `/proc/*/stat`: `USER_HZ` is 100 on every architecture
/// that agentguard runs on.
const TICK_NS: u64 = 10_000_000;

/// Path of the executable of process `pid`, if that is still the process that was there at
/// `event_ns` of the boot clock.
#[must_use]
pub(super) fn executable(pid: u32, event_ns: u64) -> Option<Untrusted> {
    // Through one descriptor: once the process is gone, it reads nothing of the next with its pid.
    let directory = File::open(format!("/proc/{pid}")).ok()?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut stat = Vec::new();
    File::from(openat(&directory, "stat", flags, Mode::empty()).ok()?)
        .read_to_end(&mut stat)
        .ok()?;
    if start_ns(&stat)? > event_ns {
        return None;
    }
    let path = readlinkat(&directory, "exe").ok()?;
    Some(Untrusted::new(path.as_bytes()))
}

/// When the process of `/proc/PID/stat` started, on the boot clock, rounded down to a tick.
fn start_ns(stat: &[u8]) -> Option<u64> {
    // The name is in parentheses and may hold anything, parentheses too.
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 2;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let ticks: u64 = fields.split(' ').nth(19)?.parse().ok()?;
    ticks.checked_mul(TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::clock::boot_now_ns;

    #[test]
    fn a_process_that_started_after_the_event_is_another() {
        let own = executable(std::process::id(), boot_now_ns()).unwrap();
        let expected = std::env::current_exe().unwrap();
        assert_eq!(own, Untrusted::new(expected.as_os_str().as_bytes()));
        assert_eq!(executable(std::process::id(), 1), None);
    }

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let mut fields: Vec<String> = (4..=52).map(|number: u32| number.to_string()).collect();
        fields[18] = "77".to_owned();
        let stat = format!("9 (a) R 1 (x) S {}", fields.join(" "));
        assert_eq!(start_ns(stat.as_bytes()), Some(77 * TICK_NS));
    }
}
