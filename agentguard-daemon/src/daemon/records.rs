//! From the ring to the history: what the kernel saw, in batches.

use std::time::{Duration, Instant};

use agentguard_common::{audit::AuditEvent, capacity::AUDIT_RING_BYTES, identity::AgentId};
use jiff::Timestamp;

use super::{
    Daemon,
    clock::{boot_clock, boot_now_ns},
};
use crate::audit::Process;

/// Events taken before others get their turn.
const BATCH: usize = 512;

/// About as many as the ring holds.
const RING_EVENTS: usize = AUDIT_RING_BYTES as usize / size_of::<AuditEvent>();

/// How long after events came losses are looked for.
const REVIEW_PAUSE: Duration = Duration::from_secs(1);

impl Daemon {
    /// Takes in a batch of events. If there are more, the next is due at once.
    pub(super) fn record_events(&mut self) {
        if !self.history.has_room() {
            // They stay in the ring; what it has no room for, the kernel counts.
            self.batches.wait(Instant::now());
            return;
        }
        let to_the_end = self.record_batch();
        self.batches.read(Instant::now(), to_the_end);
        self.want_review();
    }

    /// Takes in what is in the ring now: the last thing that a daemon does.
    pub(super) fn record_all_events(&mut self) {
        for _ in 0..=RING_EVENTS / BATCH {
            if self.record_batch() {
                break;
            }
        }
    }

    /// Whether the ring was read to its end.
    fn record_batch(&mut self) -> bool {
        let clock = boot_clock();
        for _ in 0..BATCH {
            let event = match self.audit_ring.next() {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    tracing::error!(%error, "an event is lost");
                    self.trail.count_undecodable();
                    continue;
                }
                None => {
                    self.finish_recovery();
                    return true;
                }
            };
            self.recovery.see(&event);
            if event.reason.is_limit() {
                self.limits.notice();
            }
            let process = self.process_of(&event);
            let now_ns = boot_now_ns();
            self.trail
                .receive(event, process, clock, now_ns, &mut self.records);
        }
        false
    }

    fn process_of(&mut self, event: &AuditEvent) -> Process {
        Process {
            program: self.program(event.exec_id),
            place: self
                .places
                .get(event.cgroup_id)
                .map(|place| place.told.clone()),
            sha256: self.sha256(event),
            unmet: self.unmet(event),
        }
    }

    /// Gives the history what is ready.
    pub(super) fn deliver(&mut self) {
        for record in self.records.drain(..) {
            self.history.append(record);
        }
    }

    /// Tells of events that were lost on the way, and of records that sinks refused.
    pub(super) fn report_losses(&mut self) {
        let time = Timestamp::now();
        let ids: Vec<AgentId> = self.registry.ids().map(|(id, _)| id).collect();
        let mut dropped = 0;
        for id in ids {
            match self.kernel.counters(id) {
                Ok(counters) => {
                    dropped += self.trail.accounts().balance(id, &counters).dropped;
                    self.trail
                        .report_losses(id, &counters, time, &mut self.records);
                }
                Err(error) => tracing::error!(%error, "the counters cannot be read"),
            }
        }
        let dropped = dropped + self.trail.accounts().undecodable();
        self.trail
            .report_unexplained(dropped, time, &mut self.records);
        self.trail.report_undecodable(time, &mut self.records);
        for sink in self.delivery.statuses() {
            self.trail
                .report_sink_loss(&sink.name, sink.refused, time, &mut self.records);
        }
    }

    /// Lets identities open flows again, or not.
    pub(super) fn follow_room(&mut self) {
        let refuses = *self.refuses.borrow_and_update();
        if refuses {
            tracing::error!("the history is full: no identity may open a flow");
        } else {
            tracing::info!("the history has room again: identities may open flows");
        }
        if let Err(error) = self.kernel.refuse_flows(refuses) {
            tracing::error!(%error, "flows cannot be refused or let be");
        }
    }

    fn want_review(&mut self) {
        self.review_due
            .get_or_insert_with(|| Instant::now() + REVIEW_PAUSE);
    }
}
