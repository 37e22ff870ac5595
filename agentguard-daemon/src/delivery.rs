//! Delivery: each sink gets what is in the history, in order, from where it stopped.
//!
//! All sinks run on one thread of their own, each as a task with its own cursor, retries and memory, so
//! that none waits for another and the daemon's loop waits for none. A cursor moves only over what its
//! receiver has acknowledged, or was written where there is no acknowledgement: what was under way when
//! something broke is sent again, and is known by its `metadata.uid`.
#![forbid(unsafe_code)]

mod backoff;

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use self::backoff::Backoff;
use crate::{
    config::audit::{SinkSettings, Sinks},
    history::{Cursors, Reader, Stored},
    sink::{Filter, Progress, Record, SinkStatus, Transport},
};

/// Most records and about the most bytes that are given to a transport at once.
const BATCH_RECORDS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// How long a transport may take for a batch. It has shorter times of its own; this is for what they
/// leave open.
const ATTEMPT: Duration = Duration::from_secs(120);

/// How often a cursor that moves is written.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// How long sinks have for the rest at the end.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A record of this event is a test, which passes each filter.
const TEST_CLASS: (u32, &str) = (6002, "\"activity_name\":\"Test\"");

/// What the tasks are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Order {
    /// Grows when all are to let go of what they opened and to try at once.
    nudges: u64,
    /// The end: after this record.
    until: Option<u64>,
}

/// The sinks.
#[derive(Debug)]
pub struct Delivery {
    orders: watch::Sender<Order>,
    cursors: Arc<Cursors>,
    committed: watch::Receiver<u64>,
    statuses: Arc<Mutex<Vec<SinkStatus>>>,
    thread: Option<JoinHandle<()>>,
}

impl Delivery {
    /// Starts those of `sinks`, from the history in `directory`.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn start(
        sinks: &Sinks,
        directory: &Path,
        cursors: Arc<Cursors>,
        committed: watch::Receiver<u64>,
    ) -> io::Result<Self> {
        let statuses = sinks.iter().map(|(name, settings)| SinkStatus {
            name: name.clone(),
            target: settings.transport.target(),
            ..SinkStatus::default()
        });
        let statuses = Arc::new(Mutex::new(statuses.collect::<Vec<_>>()));
        let (orders, _) = watch::channel(Order::default());
        let tasks: Vec<Task> = sinks
            .iter()
            .enumerate()
            .map(|(index, (name, settings))| {
                Task::new(
                    name,
                    settings,
                    directory,
                    Shared {
                        index,
                        cursors: Arc::clone(&cursors),
                        statuses: Arc::clone(&statuses),
                    },
                    committed.clone(),
                    orders.subscribe(),
                )
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new()
            .name("sinks".to_owned())
            .spawn(move || {
                let all = tokio::task::LocalSet::new();
                for task in tasks {
                    all.spawn_local(task.run());
                }
                runtime.block_on(all);
            })?;
        Ok(Self {
            orders,
            cursors,
            committed,
            statuses,
            thread: Some(thread),
        })
    }

    /// How they are.
    #[must_use]
    pub fn statuses(&self) -> Vec<SinkStatus> {
        let newest = *self.committed.borrow();
        let mut statuses = lock(&self.statuses).clone();
        for status in &mut statuses {
            status.waiting = newest.saturating_sub(self.cursors.get(&status.name));
        }
        statuses
    }

    /// Has all let go of files and connections, and those that wait after a failure try at once.
    pub fn nudge(&self) {
        self.orders.send_modify(|order| order.nudges += 1);
    }

    /// Has `sink` get all records after `sequence` again. Whether there is such a sink.
    #[must_use]
    pub fn replay(&self, sink: &str, sequence: u64) -> bool {
        let is_there = lock(&self.statuses).iter().any(|it| it.name == sink);
        if is_there {
            let back = self.cursors.get(sink).min(sequence);
            self.cursors.set(sink, back);
            self.nudge();
        }
        is_there
    }

    /// Gives each sink a while for what is in the history, and ends.
    pub fn stop(mut self) {
        let until = *self.committed.borrow();
        self.orders.send_modify(|order| order.until = Some(until));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sinks ended badly");
        }
        if let Err(error) = self.cursors.save() {
            tracing::error!(%error, "sinks will get some records again");
        }
    }
}

fn lock(statuses: &Mutex<Vec<SinkStatus>>) -> MutexGuard<'_, Vec<SinkStatus>> {
    // Nothing panics while it is held.
    statuses.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a task shares with others.
struct Shared {
    index: usize,
    cursors: Arc<Cursors>,
    statuses: Arc<Mutex<Vec<SinkStatus>>>,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut SinkStatus)) {
        if let Some(status) = lock(&self.statuses).get_mut(self.index) {
            change(status);
        }
    }
}

/// One sink.
struct Task {
    name: String,
    filter: Filter,
    transport: Transport,
    directory: PathBuf,
    reader: Reader,
    shared: Shared,
    committed: watch::Receiver<u64>,
    orders: watch::Receiver<Order>,
    /// The last record that it has.
    cursor: u64,
    /// Records after that.
    held: VecDeque<Stored>,
    backoff: Backoff,
    saved: Instant,
}

impl Task {
    fn new(
        name: &str,
        settings: &SinkSettings,
        directory: &Path,
        shared: Shared,
        committed: watch::Receiver<u64>,
        orders: watch::Receiver<Order>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            filter: settings.filter.clone(),
            transport: settings.transport.clone().into(),
            directory: directory.to_owned(),
            reader: Reader::new(directory),
            cursor: shared.cursors.get(name),
            shared,
            committed,
            orders,
            held: VecDeque::new(),
            backoff: Backoff::default(),
            saved: Instant::now(),
        }
    }

    async fn run(mut self) {
        let mut orders = self.orders.clone();
        loop {
            let until = orders.borrow().until;
            if let Some(until) = until {
                // The rest, if that goes at once.
                let rest = timeout(LAST_WORDS, self.go_on(Some(until)));
                if rest.await.is_err() {
                    tracing::warn!(
                        sink = self.name,
                        "the rest of the records goes at the next start"
                    );
                }
                self.transport.close().await;
                return;
            }
            tokio::select! {
                () = self.go_on(None) => {}
                changed = orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // What was under way is dropped: transports bear that, and it is sent again.
                    self.backoff = Backoff::default();
                    self.transport.close().await;
                    self.held.clear();
                }
            }
        }
    }

    /// Delivers what comes; ends once it has come to `until`.
    async fn go_on(&mut self, until: Option<u64>) {
        loop {
            self.follow_cursor();
            if until.is_some_and(|until| self.cursor >= until) {
                return;
            }
            if self.held.is_empty() && !self.read().await {
                continue;
            }
            let (batch, ends, last) = self.next_batch();
            let mut progress = Progress::default();
            let result = if batch.is_empty() {
                Ok(())
            } else {
                self.attempt(&batch, &mut progress).await
            };
            let reached = match (progress.done, result.is_ok()) {
                (_, true) => last,
                (0, false) => self.cursor,
                (done, false) => ends[done - 1],
            };
            self.advance(reached, progress);
            if let Err(error) = result {
                self.shared.update(|status| {
                    status.retries += 1;
                    status.last_error = Some(error.clone());
                });
                tokio::time::sleep(self.backoff.next(progress.done > 0)).await;
            } else if !batch.is_empty() {
                self.backoff = Backoff::default();
                self.shared.update(|status| status.last_error = None);
            }
        }
    }

    /// Somebody may have moved it: to send again, or past what is gone.
    fn follow_cursor(&mut self) {
        let cursor = self.shared.cursors.get(&self.name);
        if cursor != self.cursor {
            self.cursor = cursor;
            self.held.clear();
        }
    }

    /// Reads on; whether there is something. If not, waits until there may be.
    async fn read(&mut self) -> bool {
        let newest = *self.committed.borrow_and_update();
        if newest > self.cursor {
            match self.reader.after(self.cursor) {
                Ok(records) if !records.is_empty() => {
                    self.held = records.into();
                    return true;
                }
                Ok(_) => {}
                Err(error) => {
                    self.reader = Reader::new(&self.directory);
                    self.shared
                        .update(|status| status.last_error = Some(error.to_string()));
                    tokio::time::sleep(self.backoff.next(false)).await;
                    return false;
                }
            }
        }
        self.save();
        if self.committed.changed().await.is_err() {
            // Nothing will come any more; the end is an order.
            std::future::pending::<()>().await;
        }
        false
    }

    /// The next records that are wanted, the number of each, and that of the last one looked at.
    fn next_batch(&self) -> (Vec<Record>, Vec<u64>, u64) {
        let (mut batch, mut ends, mut last, mut bytes) = (Vec::new(), Vec::new(), self.cursor, 0);
        for stored in &self.held {
            if batch.len() == BATCH_RECORDS || bytes > BATCH_BYTES {
                break;
            }
            last = stored.record.sequence;
            if self.wants(stored) {
                bytes += stored.record.line.len();
                ends.push(last);
                batch.push(stored.record.clone());
            }
        }
        (batch, ends, last)
    }

    fn wants(&self, stored: &Stored) -> bool {
        let record = &stored.record;
        (stored.class == TEST_CLASS.0 && record.line.contains(TEST_CLASS.1))
            || self.filter.matches(
                stored.class,
                record.severity,
                stored.verdict.as_deref(),
                stored.identity.as_deref(),
            )
    }

    async fn attempt(&mut self, batch: &[Record], progress: &mut Progress) -> Result<(), String> {
        match timeout(ATTEMPT, self.transport.deliver(batch, progress)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(crate::daemon::start::with_causes(&error)),
            Err(_) => {
                self.transport.close().await;
                Err(format!("a batch took more than {} s", ATTEMPT.as_secs()))
            }
        }
    }

    fn advance(&mut self, reached: u64, progress: Progress) {
        if reached > self.cursor {
            self.shared
                .cursors
                .advance(&self.name, self.cursor, reached);
            self.cursor = reached;
            while self
                .held
                .front()
                .is_some_and(|stored| stored.record.sequence <= reached)
            {
                self.held.pop_front();
            }
        }
        self.shared.update(|status| {
            status.delivered += progress.done as u64;
            status.refused += progress.refused as u64;
        });
        if self.saved.elapsed() >= SAVE_PAUSE {
            self.save();
        }
    }

    fn save(&mut self) {
        self.saved = Instant::now();
        if let Err(error) = self.shared.cursors.save() {
            tracing::error!(%error, "the cursors of sinks cannot be written");
        }
    }
}

#[cfg(test)]
mod tests;
