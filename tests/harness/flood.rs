//! What a flood of new flows was told.

use serde::{Deserialize, Serialize};

/// Flows that were asked for, and what became of them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Flood {
    /// How many.
    pub asked: u64,
    /// Those that were opened.
    pub passed: u64,
    /// Those that were over a limit.
    pub limited: u64,
    /// Those that were refused.
    pub denied: u64,
    /// From before the first to after the last, on the boot clock.
    pub time_ns: u64,
    /// From before the first to before the last: what a machine that stalled after that did not ask for
    /// was not refused.
    pub offered_ns: u64,
}
