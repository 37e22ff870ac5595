//! What /proc says of a process.

pub(super) mod scan;

/// Nanoseconds of one tick of the times in `/proc/*/stat`: `USER_HZ` is 100 on every architecture
/// that agentguard runs on.
const TICK_NS: u64 = 10_000_000;

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

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let mut fields: Vec<String> = (4..=52).map(|number: u32| number.to_string()).collect();
        fields[18] = "77".to_owned();
        let stat = format!("9 (a) R 1 (x) S {}", fields.join(" "));
        assert_eq!(start_ns(stat.as_bytes()), Some(77 * TICK_NS));
    }
}
