//! The daemon: one loop over one closed set of events, on one thread.
//!
//! [`start`] attaches, loads the policy and labels what is there. From then on [`Daemon::run`] takes
//! events as they come: of connections (`records`), of cgroups (`labels`), of people
//! (`requests`). Nothing here polls: without events the process sleeps.
#![forbid(unsafe_code)]

mod batch;
pub mod clock;
mod conditions;
mod enrolment;
pub mod generation;
mod hashes;
pub mod host;
mod labels;
mod launch;
mod limits;
pub mod lock;
mod notify;
mod places;
mod process;
mod processes;
mod readable;
mod records;
mod recovery;
mod requests;
pub mod start;
mod status;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    signal::unix::Signal,
    sync::{mpsc, watch},
};

use self::{
    batch::Batches, conditions::Conditions, enrolment::Enrolment, generation::InForce,
    limits::LimitDesk, lock::Lock, notify::notify, places::Places, readable::Readable,
    recovery::Recovery, requests::Reload,
};
use crate::{
    audit::{AuditRecord, Trail},
    config::Settings,
    control::server::Call,
    delivery::Delivery,
    history::History,
    identity::{
        cgroups::Hierarchy, context::resolver::Resolver, execution::Executions, launch::Launches,
        registry::Registry,
    },
    kernel::{AuditRing, CgroupRing, Kernel, ProcessRing},
    policy::Diagnostics,
};

/// Everything that the loop works on.
pub struct Daemon {
    settings: Settings,
    cgroup_root: PathBuf,
    hierarchy: Hierarchy,
    kernel: Kernel,
    audit_ring: Readable<AuditRing>,
    batches: Batches,
    cgroup_ring: Readable<CgroupRing>,
    process_ring: Readable<ProcessRing>,
    resolver: Resolver,
    executions: Executions,
    registry: Registry,
    in_force: Option<Arc<InForce>>,
    policies_rejected: u64,
    last_rejection: Option<String>,
    degraded: Vec<String>,
    trail: Trail,
    history: History,
    delivery: Delivery,
    /// Whether no identity may open a flow, since the history has no room.
    refuses: watch::Receiver<bool>,
    records: Vec<AuditRecord>,
    recovery: Recovery,
    places: Places,
    conditions: Conditions,
    enrolment: Enrolment,
    cgroup_events_lost: u64,
    /// When to look for losses and to try the sinks again.
    review_due: Option<Instant>,
    launches: Launches,
    limits: LimitDesk,
    reload: Reload,
    calls: mpsc::Receiver<Call>,
    signals: Signals,
    started: Instant,
    started_at: Timestamp,
    _lock: Lock,
}

struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

enum Event {
    AuditWoken,
    CgroupsReadable,
    ProcessesReadable,
    ContextKnown(u64),
    Called(Call),
    RoomChanged,
    PolicyRead(Result<Box<generation::Candidate>, Diagnostics>),
    Reload,
    Timer,
    Stop,
}

impl Daemon {
    /// Serves until it is told to stop. What is pinned goes on enforcing.
    pub async fn run(mut self) {
        loop {
            match self.next_event().await {
                Event::AuditWoken if self.batches.woken(Instant::now()) => self.record_events(),
                Event::AuditWoken => {}
                Event::CgroupsReadable => self.follow_cgroups(),
                Event::ProcessesReadable => self.follow_processes(),
                Event::ContextKnown(cgroup_id) => self.learn_context(cgroup_id),
                Event::Called(call) => self.answer(call),
                Event::RoomChanged => self.follow_room(),
                Event::PolicyRead(read) => self.finish_reload(read),
                Event::Reload => self.begin_reload(None),
                Event::Timer => self.do_what_is_due(),
                Event::Stop => break,
            }
            self.deliver();
        }
        notify("STOPPING=1");
        self.stop();
    }

    async fn next_event(&mut self) -> Event {
        let timer = self.next_timer();
        tokio::select! {
            () = self.audit_ring.woken() => Event::AuditWoken,
            () = self.cgroup_ring.ready() => Event::CgroupsReadable,
            () = self.process_ring.ready() => Event::ProcessesReadable,
            (cgroup_id, _) = self.resolver.next() => Event::ContextKnown(cgroup_id),
            Some(call) = self.calls.recv() => Event::Called(call),
            Ok(()) = self.refuses.changed() => Event::RoomChanged,
            read = self.reload.finished() => Event::PolicyRead(read),
            Some(()) = self.signals.reload.recv() => Event::Reload,
            Some(()) = self.signals.terminate.recv() => Event::Stop,
            Some(()) = self.signals.interrupt.recv() => Event::Stop,
            () = sleep_until(timer) => Event::Timer,
        }
    }

    /// When something is due; `None` while nothing is pending.
    fn next_timer(&self) -> Option<Instant> {
        let now = Instant::now();
        let fold = self.trail.next_deadline().map(|deadline| {
            now + Duration::from_nanos(deadline.saturating_sub(clock::boot_now_ns()))
        });
        [
            fold,
            self.batches.due(),
            self.enrolment.due(now),
            self.review_due,
            self.launches.due(),
            self.limits.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        if self.batches.due().is_some_and(|due| due <= now) {
            self.record_events();
        }
        self.trail
            .flush_due(clock::boot_now_ns(), &mut self.records);
        if self.enrolment.due(now).is_some_and(|due| due <= now) {
            self.enrol();
        }
        if self.review_due.is_some_and(|due| due <= now) {
            self.review_due = None;
            self.report_losses();
        }
        if self.launches.due().is_some_and(|due| due <= now) {
            self.clear_launches();
        }
        if self.limits.due().is_some_and(|due| due <= now) {
            self.look_at_limits();
        }
    }

    fn enrol(&mut self) {
        self.enrolment.begin(Instant::now());
        match self.kernel.enrol() {
            Ok(enrolled) => tracing::debug!(?enrolled, "looked at the open sockets"),
            Err(error) => tracing::error!(%error, "the open sockets cannot be looked at"),
        }
    }

    fn stop(mut self) {
        self.record_all_events();
        self.trail.flush_all(&mut self.records);
        self.report_losses();
        self.look_at_limits();
        self.save_limits();
        let time = Timestamp::now();
        self.note(AuditRecord::DaemonStopped { time });
        self.deliver();
        // First all is on disk, then the sinks get what they can.
        self.history.close();
        self.delivery.stop();
    }

    fn note(&mut self, record: AuditRecord) {
        self.trail.note(record, &mut self.records);
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
