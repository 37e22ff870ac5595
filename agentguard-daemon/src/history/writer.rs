//! The one writer: records in, on disk in order, and the news of that.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::{Timestamp, tz::TimeZone};
use tokio::sync::watch;

use super::{
    Cursors, GATHER, HistoryError, Retention,
    accounts::Told,
    day::{Batch, Entry},
    handle::Shared,
    key::Keyring,
    reader::Reader,
    retention::{self, Fill},
    row::Row,
    store::Store,
};
use crate::audit::{
    AuditRecord, Encoder, EventsLost, HistoryFilling, Loss, RecordsRemoved, Signer,
    chain::from_hex, checkpoint::PublicKey,
};

/// Records that go to disk together at most.
const MOST_AT_ONCE: usize = 1_024;

/// A checkpoint comes after so many records, or so long after the first one since the last.
const CHECKPOINT_RECORDS: u64 = 4_096;
const CHECKPOINT_TIME: Duration = Duration::from_secs(60);

/// How often it is looked whether something is to be removed, while records come.
const RETENTION_PAUSE: Duration = Duration::from_secs(5);

/// How long after a write that failed the next is tried, and how often at the end of all.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const LAST_TRIES: u32 = 4;

/// Shares of the room at which those who watch are told, in percent.
const WARNINGS: [u64; 3] = [75, 90, 100];

/// The thread's own.
pub(super) struct Writer {
    store: Store,
    keyring: Keyring,
    encoder: Encoder,
    retention: Retention,
    cursors: Arc<Cursors>,
    shared: Arc<Shared>,
    receiver: Receiver<AuditRecord>,
    commits: watch::Sender<u64>,
    refusals: watch::Sender<bool>,
    /// Records since the last checkpoint, and since when there are some.
    unsigned: u64,
    unsigned_since: Option<Instant>,
    retention_due: Option<Instant>,
    /// The highest of [`WARNINGS`] that was told.
    warned: u64,
    /// Records that each sink will never have, since the start.
    gaps: HashMap<String, u64>,
    /// Records of our own that are to be written.
    news: Vec<AuditRecord>,
}

impl Writer {
    pub(super) fn new(
        (store, keyring, encoder, retention): (Store, Keyring, Encoder, Retention),
        cursors: Arc<Cursors>,
        shared: Arc<Shared>,
        receiver: Receiver<AuditRecord>,
        (commits, refusals): (watch::Sender<u64>, watch::Sender<bool>),
    ) -> Self {
        Self {
            store,
            keyring,
            encoder,
            retention,
            cursors,
            shared,
            receiver,
            commits,
            refusals,
            unsigned: 0,
            unsigned_since: None,
            retention_due: None,
            warned: 0,
            gaps: HashMap::new(),
            news: Vec::new(),
        }
    }

    /// Begins to write.
    pub(super) fn start(mut self) -> io::Result<JoinHandle<()>> {
        if let Some(path) = self.store.damaged.take() {
            self.note_damage(path);
        }
        self.publish(None);
        thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || self.run())
    }

    fn run(mut self) {
        loop {
            let (records, is_over) = self.gather();
            let came = records.len() as u64;
            let records = self.news.drain(..).chain(records).collect();
            if is_over {
                // Nobody hears of gaps any more: what is over the bounds goes at the next start.
                self.retention_due = None;
            }
            self.write(records, is_over);
            if is_over && !self.news.is_empty() {
                // What went to make room for them.
                let news = std::mem::take(&mut self.news);
                self.write(news, true);
            }
            self.shared.waiting.fetch_sub(came, Ordering::Relaxed);
            if is_over {
                return;
            }
            self.look_after();
        }
    }

    /// What came, and whether nothing will come any more.
    fn gather(&self) -> (Vec<AuditRecord>, bool) {
        let mut records = Vec::new();
        if self.news.is_empty() {
            match self.wait() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => return (records, false),
                Err(()) => return (records, true),
            }
        }
        let until = Instant::now() + GATHER;
        while records.len() < MOST_AT_ONCE {
            match self
                .receiver
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(record) => records.push(record),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return (records, true),
            }
        }
        (records, false)
    }

    /// The next record; none if something else is due.
    fn wait(&self) -> Result<Option<AuditRecord>, ()> {
        let signing = self.unsigned_since.map(|since| since + CHECKPOINT_TIME);
        match [signing, self.retention_due].into_iter().flatten().min() {
            None => self.receiver.recv().map(Some).map_err(|_ended| ()),
            Some(due) => {
                match self
                    .receiver
                    .recv_timeout(due.saturating_duration_since(Instant::now()))
                {
                    Ok(record) => Ok(Some(record)),
                    Err(RecvTimeoutError::Timeout) => Ok(None),
                    Err(RecvTimeoutError::Disconnected) => Err(()),
                }
            }
        }
    }

    /// Writes `records`, however long that takes; at the end of all, for a while. Whether they are on disk.
    fn write(&mut self, records: Vec<AuditRecord>, is_last: bool) -> bool {
        let mut batch = Batch {
            start: self.store.position(),
            end: self.store.position(),
            accounts: HashMap::new(),
            entries: Vec::with_capacity(records.len() + 1),
        };
        for record in records {
            self.encode(&record, &mut batch);
        }
        let next = self.sign(&mut batch, is_last);
        if batch.entries.is_empty() {
            return true;
        }
        let mut tries = 0;
        while let Err(error) = self.store.append(&batch, today()) {
            self.publish(Some(&error));
            // Others may give room back; what is kept goes only if they do not.
            if error.is_full() && tries > 0 {
                self.make_room();
            }
            tries += 1;
            if self.shared.stopping.load(Ordering::Relaxed) && tries >= LAST_TRIES {
                tracing::error!(%error, records = batch.entries.len(), "records are lost");
                return false;
            }
            thread::sleep(RETRY_PAUSE);
        }
        if let Some(next) = next {
            self.unsigned = 0;
            self.unsigned_since = None;
            if let Err(error) = self.keyring.advance(next) {
                tracing::error!(%error, "the last audit key is still there");
            }
        } else {
            self.unsigned += batch.entries.len() as u64;
            self.unsigned_since.get_or_insert_with(Instant::now);
        }
        self.retention_due
            .get_or_insert_with(|| Instant::now() + RETENTION_PAUSE);
        self.publish(None);
        true
    }

    fn encode(&self, record: &AuditRecord, batch: &mut Batch) {
        let encoded = self.encoder.encode(record, batch.end);
        batch.end = batch.end.after(&encoded.line);
        if let Some((id, told)) = Told::of(record) {
            let before = || self.store.accounts().get(&id).copied().unwrap_or_default();
            batch.accounts.entry(id).or_insert_with(before).add(told);
        }
        batch.entries.push(Entry {
            row: Row::of(record, &encoded),
            line: encoded.line,
        });
    }

    /// Adds a checkpoint where one is due, and says who signs after it.
    fn sign(&mut self, batch: &mut Batch, is_last: bool) -> Option<Signer> {
        let unsigned = self.unsigned + batch.entries.len() as u64;
        let is_due = unsigned >= CHECKPOINT_RECORDS
            || self
                .unsigned_since
                .is_some_and(|since| since.elapsed() >= CHECKPOINT_TIME);
        if unsigned == 0 || !(is_due || is_last) {
            return None;
        }
        match self
            .keyring
            .sign(batch.end, Timestamp::now().as_millisecond())
        {
            Ok((checkpoint, next)) => {
                self.encode(&AuditRecord::Checkpoint(Box::new(checkpoint)), batch);
                Some(next)
            }
            Err(error) => {
                // What a checkpoint would vouch for matters more than the checkpoint.
                tracing::error!(%error, "no checkpoint can be signed");
                self.unsigned_since = Some(Instant::now());
                self.unsigned = 0;
                None
            }
        }
    }

    fn look_after(&mut self) {
        if self.retention_due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.retention_due = None;
        // How full it was is told, though what was too much goes at once.
        self.watch();
        if let Err(error) = self.let_go() {
            self.publish(Some(&error));
        }
        self.watch();
        let is_refusing = *self.refusals.borrow();
        if is_refusing || self.warned > 0 {
            // Sinks come on, though no record may come.
            self.retention_due = Some(Instant::now() + RETENTION_PAUSE);
        }
    }

    fn watch(&mut self) {
        match self.retention.fill(&self.store, &self.cursors) {
            Ok(fill) => self.note_fill(fill),
            Err(error) => self.publish(Some(&error)),
        }
    }

    fn note_fill(&mut self, fill: Fill) {
        self.shared.lock().undelivered_bytes = fill.bytes;
        let reached = WARNINGS.into_iter().rfind(|&level| fill.percent >= level);
        match reached {
            Some(level) if level > self.warned => {
                self.warned = level;
                self.news.push(AuditRecord::HistoryFilling(HistoryFilling {
                    time: Timestamp::now(),
                    percent: u8::try_from(level).unwrap_or(100),
                    bytes: fill.bytes,
                    most_bytes: self.retention.max_bytes,
                }));
            }
            None if fill.percent < WARNINGS[0] / 2 => self.warned = 0,
            _ => {}
        }
        let refuses = self.retention.on_full == super::OnFull::RefuseNewFlows
            && (fill.percent >= 100 || (*self.refusals.borrow() && fill.percent >= WARNINGS[1]));
        self.shared.lock().refuses_flows = refuses;
        self.refusals.send_if_modified(|value| {
            let is_new = *value != refuses;
            *value = refuses;
            is_new
        });
    }

    /// Removes what is too old or too much. It is on disk that it goes before it does: whatever else is
    /// missing was taken by somebody.
    fn let_go(&mut self) -> Result<(), HistoryError> {
        let due = self.retention.due(&self.store, &self.cursors, today())?;
        let Some(last) = due else { return Ok(()) };
        self.note_removal(last);
        let news = std::mem::take(&mut self.news);
        if self.write(news, false) {
            self.cursors.save()?;
            self.store.remove_until(last)?;
        }
        Ok(())
    }

    /// Removes something from a full disk, where nothing can be written before.
    fn make_room(&mut self) {
        let spare = self.retention.spare(&self.store, &self.cursors);
        let made = spare.and_then(|last| {
            let Some(last) = last else { return Ok(()) };
            self.note_removal(last);
            self.store.remove_until(last)
        });
        if let Err(error) = made {
            tracing::error!(%error, "no room can be made");
        }
    }

    /// Has it told that the records until `last` go, and which sinks will never have how many of them.
    fn note_removal(&mut self, last: u64) {
        // What could not be removed at once is tried again.
        let is_noted =
            |news: &AuditRecord| matches!(news, AuditRecord::RecordsRemoved(it) if it.last == last);
        if self.news.iter().any(is_noted) {
            return;
        }
        self.news.push(AuditRecord::RecordsRemoved(RecordsRemoved {
            time: Timestamp::now(),
            first: self.store.first(),
            last,
        }));
        for gap in retention::pass(&self.store, &self.cursors, last) {
            let total = self.gaps.entry(gap.sink.clone()).or_default();
            *total += gap.records;
            self.news.push(AuditRecord::EventsLost(EventsLost {
                time: Timestamp::now(),
                loss: Loss::Undelivered(gap.sink),
                lost: gap.records,
                total: *total,
            }));
        }
    }

    fn note_damage(&mut self, path: PathBuf) {
        tracing::error!(path = %path.display(), "a file of the history is damaged and set aside");
        self.news.push(AuditRecord::EventsLost(EventsLost {
            time: Timestamp::now(),
            loss: Loss::Damaged(path.display().to_string()),
            lost: 0,
            total: 0,
        }));
    }

    fn publish(&self, error: Option<&HistoryError>) {
        let newest = self.store.position().sequence - 1;
        let mut status = self.shared.lock();
        if let Some(error) = error
            && status.last_error.is_none()
        {
            tracing::error!(%error, "records wait in memory");
        }
        status.first = self.store.first();
        status.last = newest;
        status.max_bytes = self.retention.max_bytes;
        status.bytes = self.store.bytes().unwrap_or(status.bytes);
        status.last_error = error.map(ToString::to_string);
        drop(status);
        self.commits.send_if_modified(|value| {
            let is_new = *value != newest;
            *value = newest;
            is_new
        });
    }
}

fn today() -> jiff::civil::Date {
    Timestamp::now().to_zoned_datetime(TimeZone::UTC).date()
}

/// The key that the last checkpoint named, if there is one.
pub(super) fn announced(
    directory: &Path,
    store: &Store,
) -> Result<Option<PublicKey>, HistoryError> {
    for file in store.files()?.into_iter().rev() {
        let connection = super::reader::open(&file.path)?;
        let last: Option<u64> = connection.query_row(
            "SELECT max(sequence) FROM events WHERE event = 'checkpoint'",
            [],
            |row| row.get(0),
        )?;
        let Some(sequence) = last else { continue };
        let stored = Reader::new(directory).after(sequence - 1)?;
        let line = stored
            .iter()
            .find(|stored| stored.record.sequence == sequence)
            .map(|stored| &stored.record.line);
        let parsed: Option<serde_json::Value> =
            line.and_then(|line| serde_json::from_str(line).ok());
        return Ok(parsed.and_then(|line| {
            let checkpoint = &line["unmapped"]["agentguard"]["checkpoint"];
            from_hex(checkpoint["next_key"].as_str()?)
        }));
    }
    Ok(None)
}
