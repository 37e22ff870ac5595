//! What an earlier daemon of this boot had taken from the ring and not written, and what it had not told
//! of: told now.

use std::{collections::HashMap, thread, time::Duration};

use agentguard_common::{
    audit::{AuditEvent, Counters},
    identity::AgentId,
};
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
    owed: HashMap<AgentId, Owed>,
}

#[derive(Debug)]
struct Owed {
    /// When it was looked, on the boot clock.
    at_ns: u64,
    events: u64,
}

/// How long nothing may be counted for what is counted to be what was written: far more than a program of
/// the kernel takes from the one to the other.
const QUIET: Duration = Duration::from_micros(50);

/// How often that is tried. Who writes without a pause is told of with an error of what was under way.
const TRIES: u32 = 200;

impl Recovery {
    /// An event came.
    pub(super) fn see(&mut self, event: &AuditEvent) {
        if let Some(owed) = self.owed.get_mut(&event.identity)
            && event.time_ns <= owed.at_ns
        {
            owed.events = owed.events.saturating_sub(1);
        }
    }
}

impl Daemon {
    /// Begins the accounts: what earlier daemons told of is not told again, what they did not is.
    pub(super) fn begin_accounts(&mut self) -> Result<(), KernelError> {
        if self.kernel.generation() == 0 {
            self.trail.sequences_mut().begin();
        }
        let mut recovery = Recovery::default();
        for (id, _) in self.registry.ids() {
            let (counters, at_ns) = self.counters_at_rest(id)?;
            let told = self.history.told().get(&id).copied().unwrap_or_default();
            let untold = [
                counters.events_dropped.saturating_sub(told.ring_full),
                counters.events_over_budget.saturating_sub(told.over_budget),
            ];
            self.trail.accounts_mut().begin(id, counters, untold);
            let dropped = counters.events_dropped + counters.events_over_budget;
            let events = counters
                .events_produced
                .saturating_sub(dropped + told.recorded);
            if events > 0 {
                recovery.owed.insert(id, Owed { at_ns, events });
            }
        }
        self.recovery = recovery;
        Ok(())
    }

    /// What was counted of `id` when nothing was under way, and when that was.
    fn counters_at_rest(&self, id: AgentId) -> Result<(Counters, u64), KernelError> {
        let mut counters = self.kernel.counters(id)?;
        if counters.events_produced == 0 {
            return Ok((counters, 0));
        }
        let mut at_ns = boot_now_ns();
        for _ in 0..TRIES {
            thread::sleep(QUIET);
            let again = self.kernel.counters(id)?;
            if again == counters {
                break;
            }
            counters = again;
            at_ns = boot_now_ns();
        }
        Ok((counters, at_ns))
    }

    /// The ring was read to its end: what did not come by now will not.
    pub(super) fn finish_recovery(&mut self) {
        for (id, Owed { events: lost, .. }) in std::mem::take(&mut self.recovery).owed {
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
