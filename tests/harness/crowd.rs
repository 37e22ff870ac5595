//! What children that came about in many ways were told by the kernel.

use serde::{Deserialize, Serialize};

/// The answers to children that came about in one way.
#[derive(Debug, Deserialize, Serialize)]
pub struct Tally {
    /// The way.
    pub way: String,
    /// Whether they ask from the other cgroup, and not from that of who made them.
    pub is_there: bool,
    /// How often each answer was given: 1 stands for a refusal of the first target, 2 for one of the
    /// second, 4 for an error that no policy could be blamed for.
    pub answers: [u32; 8],
}

impl Tally {
    /// Children that asked.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.answers.iter().sum()
    }
}
