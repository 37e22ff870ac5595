//! The numbers that the kernel gives the events of each identity on each CPU: what is missing among them was
//! not written.

use std::collections::HashMap;

use agentguard_common::identity::AgentId;

/// What came of each identity from each CPU.
#[derive(Debug, Default)]
pub struct Sequences {
    /// The number after the highest that came.
    next: HashMap<(AgentId, u16), u64>,
    /// The first number is 1 where nothing came before.
    is_from_start: bool,
    missing: u64,
}

impl Sequences {
    /// Nothing came before: all begin with 1. Without this, with what comes first.
    pub const fn begin(&mut self) {
        self.is_from_start = true;
    }

    /// Takes in the number of an event.
    pub fn see(&mut self, identity: AgentId, cpu: u16, number: u64) {
        let start = if self.is_from_start { 1 } else { number };
        let next = self.next.entry((identity, cpu)).or_insert(start);
        if number >= *next {
            self.missing += number - *next;
            *next = number + 1;
        } else {
            // An interrupt wrote its event first: what was missing comes now.
            self.missing = self.missing.saturating_sub(1);
        }
    }

    /// Numbers that did not come, though later ones did.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_on_each_cpu_and_late_ones_are_none() {
        let mut sequences = Sequences::default();
        sequences.begin();
        for (cpu, number) in [(0, 1), (1, 3), (0, 2), (0, 4), (0, 3), (1, 4), (0, 10)] {
            sequences.see(AgentId(20), cpu, number);
        }
        // 1 and 2 of CPU 1, 5 to 9 of CPU 0.
        assert_eq!(sequences.missing(), 7);
        sequences.see(AgentId(21), 0, 1);
        assert_eq!(sequences.missing(), 7, "each identity has its own");
        let mut adopted = Sequences::default();
        adopted.see(AgentId(20), 0, 700);
        adopted.see(AgentId(20), 0, 702);
        assert_eq!(adopted.missing(), 1);
    }
}
