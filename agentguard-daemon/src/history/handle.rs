//! The history as the daemon holds it.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
};

use agentguard_common::identity::AgentId;
use tokio::sync::watch;

use super::{
    Cursors, HistoryError, Retention,
    accounts::Told,
    key::Keyring,
    store::Store,
    writer::{Writer, announced},
};
use crate::{
    audit::{AuditRecord, Encoder},
    sink::Filter,
};

/// Records that may wait: with those of a batch they stay below some 20 MB.
const MOST_WAITING: u64 = 8_192;

/// How the history is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryStatus {
    /// Number of the oldest record.
    pub first: u64,
    /// Number of the newest record.
    pub last: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The most that there may be.
    pub max_bytes: u64,
    /// Bytes of what some sink does not have yet.
    pub undelivered_bytes: u64,
    /// Records that wait to be written.
    pub waiting: u64,
    /// Why the last write failed, until one succeeds.
    pub last_error: Option<String>,
    /// Whether no identity may open a flow, since there is no room.
    pub refuses_flows: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) waiting: AtomicU64,
    pub(super) stopping: AtomicBool,
    status: Mutex<HistoryStatus>,
}

/// The history, for whoever adds to it.
#[derive(Debug)]
pub struct History {
    sender: Option<Sender<AuditRecord>>,
    shared: Arc<Shared>,
    cursors: Arc<Cursors>,
    committed: watch::Receiver<u64>,
    refuses: watch::Receiver<bool>,
    thread: Option<JoinHandle<()>>,
    told: HashMap<AgentId, Told>,
}

impl History {
    /// Opens the history in `directory` and goes on with it, for `sinks` and what each wants.
    ///
    /// # Errors
    ///
    /// If it cannot be opened. A file that is damaged is none: it is set aside, and a record says so.
    pub fn open(
        directory: &Path,
        encoder: Encoder,
        retention: Retention,
        sinks: impl IntoIterator<Item = (String, Filter)>,
    ) -> Result<Self, HistoryError> {
        let store = Store::open(directory, encoder.boot_id())?;
        let told = store.accounts().clone();
        let newest = store.position().sequence - 1;
        let cursors = Arc::new(Cursors::open(directory, sinks, newest)?);
        let keyring = Keyring::open(directory, announced(directory, &store)?)?;
        let shared = Arc::new(Shared::default());
        let (sender, receiver) = mpsc::channel();
        let (commits, committed) = watch::channel(newest);
        let (refusals, refuses) = watch::channel(false);
        let thread = Writer::new(
            (store, keyring, encoder, retention),
            Arc::clone(&cursors),
            Arc::clone(&shared),
            receiver,
            (commits, refusals),
        )
        .start()?;
        Ok(Self {
            sender: Some(sender),
            shared,
            cursors,
            committed,
            refuses,
            thread: Some(thread),
            told,
        })
    }

    /// What the records of this boot stood for when this was opened, by identity.
    #[must_use]
    pub const fn told(&self) -> &HashMap<AgentId, Told> {
        &self.told
    }

    /// Adds a record; it is on disk soon.
    pub fn append(&self, record: AuditRecord) {
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        if let Some(sender) = &self.sender
            && sender.send(record).is_err()
        {
            tracing::error!("the history has ended: a record is lost");
        }
    }

    /// Whether it takes events in as fast as they come. If not, leave them where they are.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) < MOST_WAITING && !*self.refuses.borrow()
    }

    /// Number of the newest record on disk.
    #[must_use]
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.committed.clone()
    }

    /// Whether no identity may open a flow, since there is no room.
    #[must_use]
    pub fn refuses_flows(&self) -> watch::Receiver<bool> {
        self.refuses.clone()
    }

    /// How far each sink has come.
    #[must_use]
    pub fn cursors(&self) -> Arc<Cursors> {
        Arc::clone(&self.cursors)
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> HistoryStatus {
        let mut status = self.shared.lock().clone();
        status.waiting = self.shared.waiting.load(Ordering::Relaxed);
        status
    }

    /// Writes what waits, and a checkpoint after it.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the history's writer ended badly");
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, HistoryStatus> {
        // Nothing panics while it is held.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
