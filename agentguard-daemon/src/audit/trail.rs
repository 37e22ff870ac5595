//! The audit stage as the daemon drives it: events and news in, records for the history out.

use std::sync::Arc;

use agentguard_common::{
    audit::{AuditEvent, Counters},
    identity::AgentId,
};
use jiff::Timestamp;

use super::{
    accounting::{Accounts, Growth, grow},
    fold::Fold,
    names::{Actor, Directory, Names},
    record::{AuditRecord, BootClock, ConnectionRecord, EventsLost, Loss, Process},
    sequences::Sequences,
};
use crate::policy::compiled::RuleSource;

/// Enriches, folds and accounts for.
#[derive(Debug, Default)]
pub struct Trail {
    names: Directory,
    fold: Fold,
    #[expect(
        clippy::vec_box,
        reason = "records stay boxed from the fold to `AuditRecord`"
    )]
    ready: Vec<Box<ConnectionRecord>>,
    accounts: Accounts,
    sequences: Sequences,
    unexplained: u64,
    unexplained_reported: u64,
    sink_losses: Vec<(String, u64)>,
}

impl Trail {
    /// The names of a generation, from now on. The last four are kept.
    pub fn learn_generation(&mut self, generation: u64, names: Names) {
        self.names.learn(generation, names);
    }

    /// Who `id` is in `generation`.
    #[must_use]
    pub fn actor(&self, generation: u64, id: AgentId) -> Arc<Actor> {
        self.names.actor(generation, id)
    }

    /// A rule of a generation that is kept.
    #[must_use]
    pub fn rule(&self, generation: u64, rule: u32) -> Option<Arc<RuleSource>> {
        self.names.rule(generation, rule)
    }

    /// Takes an event in at `now_ns` of the boot clock.
    pub fn receive(
        &mut self,
        event: AuditEvent,
        process: Process,
        clock: BootClock,
        now_ns: u64,
        records: &mut Vec<AuditRecord>,
    ) {
        self.accounts.receive(event.identity);
        self.sequences
            .see(event.identity, event.cpu, event.cpu_sequence);
        let actor = self.names.actor(event.generation, event.identity);
        let rule = self.names.rule(event.generation, event.rule);
        let record = ConnectionRecord::new(event, actor, rule, process, clock);
        self.fold.push(Box::new(record), now_ns, &mut self.ready);
        self.deliver_ready(records);
    }

    /// Counts an event that did not decode.
    pub fn count_undecodable(&mut self) {
        self.accounts.count_undecodable();
    }

    /// Passes on what is no connection.
    pub fn note(&mut self, record: AuditRecord, records: &mut Vec<AuditRecord>) {
        if let AuditRecord::Connection(record) = &record {
            self.accounts.deliver(record.event.identity, record.count);
        }
        records.push(record);
    }

    /// A record of the events of `id` that the kernel dropped since the last call, if it did.
    pub fn report_losses(
        &mut self,
        id: AgentId,
        counters: &Counters,
        time: Timestamp,
        records: &mut Vec<AuditRecord>,
    ) {
        let [full, over] = self.accounts.take_dropped(id, counters);
        for (growth, loss) in [
            (full, Loss::RingFull as fn(Arc<Actor>, AgentId) -> Loss),
            (over, Loss::OverBudget),
        ] {
            if let Some(growth) = growth {
                let actor = self.names.actor(0, id);
                self.report(loss(actor, id), growth, time, records);
            }
        }
    }

    /// A record of the numbers that are missing though only `dropped` events were not written, if they
    /// were missing at the last call, too.
    pub fn report_unexplained(
        &mut self,
        dropped: u64,
        time: Timestamp,
        records: &mut Vec<AuditRecord>,
    ) {
        let now = self.sequences.missing().saturating_sub(dropped);
        // An event that an interrupt overtook comes a moment later.
        let stays = now.min(self.unexplained);
        self.unexplained = now;
        if let Some(growth) = grow(&mut self.unexplained_reported, stays) {
            self.report(Loss::Unexplained, growth, time, records);
        }
    }

    /// The numbers of events.
    pub const fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// The same, to set where they begin.
    pub const fn sequences_mut(&mut self) -> &mut Sequences {
        &mut self.sequences
    }

    /// A record of the events that did not decode since the last call, if there were any.
    pub fn report_undecodable(&mut self, time: Timestamp, records: &mut Vec<AuditRecord>) {
        if let Some(growth) = self.accounts.take_undecodable() {
            self.report(Loss::Undecodable, growth, time, records);
        }
    }

    /// A record of the records that `sink` refused since the last call, `total` since the start.
    pub fn report_sink_loss(
        &mut self,
        sink: &str,
        total: u64,
        time: Timestamp,
        records: &mut Vec<AuditRecord>,
    ) {
        let known = self.sink_losses.iter().position(|(name, _)| name == sink);
        let index = known.unwrap_or_else(|| {
            self.sink_losses.push((sink.to_owned(), 0));
            self.sink_losses.len() - 1
        });
        if let Some(growth) = grow(&mut self.sink_losses[index].1, total) {
            self.report(Loss::Refused(sink.to_owned()), growth, time, records);
        }
    }

    /// When [`Trail::flush_due`] is wanted next, on the boot clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.fold.next_deadline()
    }

    /// Passes on the folded records whose window is over at `now_ns`.
    pub fn flush_due(&mut self, now_ns: u64, records: &mut Vec<AuditRecord>) {
        self.fold.flush_due(now_ns, &mut self.ready);
        self.deliver_ready(records);
    }

    /// Passes on all folded records.
    pub fn flush_all(&mut self, records: &mut Vec<AuditRecord>) {
        self.fold.flush_all(&mut self.ready);
        self.deliver_ready(records);
    }

    /// Where each event went.
    #[must_use]
    pub const fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The same, to set where counting begins.
    pub const fn accounts_mut(&mut self) -> &mut Accounts {
        &mut self.accounts
    }

    fn deliver_ready(&mut self, records: &mut Vec<AuditRecord>) {
        for record in std::mem::take(&mut self.ready) {
            self.note(AuditRecord::Connection(record), records);
        }
    }

    fn report(
        &mut self,
        loss: Loss,
        growth: Growth,
        time: Timestamp,
        records: &mut Vec<AuditRecord>,
    ) {
        let record = EventsLost {
            time,
            loss,
            lost: growth.lost,
            total: growth.total,
        };
        self.note(AuditRecord::EventsLost(record), records);
    }
}
