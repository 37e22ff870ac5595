//! What an earlier daemon of this boot had taken from the ring and not written, and what it had not told
//! of: told now.

use std::collections::HashMap;

use agentguard_common::{audit::AuditEvent, identity::AgentId};
use jiff::Timestamp;

use super::{Daemon, clock::boot_now_ns};
use crate::{
    audit::{AuditRecord, EventsLost, Loss},
    kernel::KernelError,
};

/// Events that the kernel has written in this boot, and no record tells of. Some of them are in the ring
/// still; once that is read to its end, the others are lost.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// When it was looked, on the boot clock.
    at_ns: u64,
    owed: HashMap<AgentId, u64>,
}

impl Recovery {
    /// An event came.
    pub(super) fn see(&mut self, event: &AuditEvent) {
        if event.time_ns <= self.at_ns
            && let Some(owed) = self.owed.get_mut(&event.identity)
        {
            *owed = owed.saturating_sub(1);
        }
    }
}

impl Daemon {
    /// Begins the accounts: what earlier daemons told of is not told again, what they did not is.
    pub(super) fn begin_accounts(&mut self) -> Result<(), KernelError> {
        if self.kernel.generation() == 0 {
            self.trail.sequences_mut().begin();
        }
        let mut recovery = Recovery {
            at_ns: boot_now_ns(),
            owed: HashMap::new(),
        };
        for (id, _) in self.registry.ids() {
            let counters = self.kernel.counters(id)?;
            let told = self.history.told().get(&id).copied().unwrap_or_default();
            let untold = [
                counters.events_dropped.saturating_sub(told.ring_full),
                counters.events_over_budget.saturating_sub(told.over_budget),
            ];
            self.trail.accounts_mut().begin(id, counters, untold);
            let dropped = counters.events_dropped + counters.events_over_budget;
            let owed = counters
                .events_produced
                .saturating_sub(dropped + told.recorded);
            if owed > 0 {
                recovery.owed.insert(id, owed);
            }
        }
        self.recovery = recovery;
        Ok(())
    }

    /// The ring was read to its end: what did not come by now will not.
    pub(super) fn finish_recovery(&mut self) {
        for (id, lost) in std::mem::take(&mut self.recovery).owed {
            if lost > 0 {
                let actor = self.trail.actor(0, id);
                self.note(AuditRecord::EventsLost(EventsLost {
                    time: Timestamp::now(),
                    loss: Loss::Interrupted(actor, id),
                    lost,
                    total: lost,
                }));
            }
        }
    }
}
