//! To a syslog server by RELP, which confirms each record: messages of RFC 5424 over TCP or TLS.
//!
//! The messages are those of [`syslog`](super::syslog). A record is done once the server has answered
//! `200` to it. What that means is the server's choice: rsyslog confirms what it has queued, so it takes a
//! queue on disk, or none (`queue.type="Direct"`), to lose nothing when it dies. Up to [`WINDOW`] records
//! are on their way at a time; where the connection ends before they are confirmed they are sent again,
//! and the server may get them twice.

mod frame;

use std::collections::VecDeque;

use serde::Deserialize;
use tokio::time::timeout;

use self::frame::{Frame, MAX_TRANSACTION, Reply};
use super::{
    Progress, Record, SinkError,
    connection::{Address, CLOSE_TIMEOUT, Connection},
    syslog::{Facility, Hostname, Origin},
    tls::TlsSettings,
};
use crate::audit::escape::escape;

/// Most records that are sent and not yet confirmed: 128.
pub const WINDOW: usize = 128;

/// What we say of ourselves. Version 0 is the one that servers speak; it is kept since 2008.
const OFFER: &[u8] = b"relp_version=0\nrelp_software=agentguard\ncommands=syslog";

/// Most bytes of an answer that an error shows.
const SHOWN_BYTES: usize = 200;

/// The table of a RELP server.
///
/// | key | type | default |
/// |---|---|---|
/// | `address` | `HOST:PORT` | required |
/// | `tls` | table | none: plain TCP |
/// | `facility` | `user`, `daemon`, `auth`, `authpriv`, `local0` … `local7` | `local0` |
/// | `hostname` | text | the name of the host |
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RelpSettings {
    /// Where it listens.
    pub address: Address,
    /// Settings of TLS, if it speaks TLS.
    pub tls: Option<TlsSettings>,
    /// What messages are filed under.
    #[serde(default)]
    pub facility: Facility,
    /// Who they are from; `None` is the name of the host.
    pub hostname: Option<Hostname>,
}

/// A RELP server.
#[derive(Debug)]
pub struct Relp {
    address: Address,
    tls: Option<TlsSettings>,
    origin: Origin,
    session: Option<Session>,
}

impl Relp {
    /// A server that is connected to once there is something to deliver.
    #[must_use]
    pub fn new(settings: RelpSettings) -> Self {
        Self {
            address: settings.address,
            tls: settings.tls,
            origin: Origin::new(settings.facility, settings.hostname),
            session: None,
        }
    }

    /// Sends `records` in order, and returns once all are confirmed. A dropped call ends the connection.
    ///
    /// # Errors
    ///
    /// If the server is not there, refuses TLS or a record, goes away, or does not answer for 30 s.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        // Taken out, it is gone where this fails or is dropped: no answer is taken for another's.
        let mut session = match self.session.take() {
            // What a server says unasked is that it closes.
            Some(mut session) => match session.connection.check().await {
                Ok(0) => session,
                Ok(_) | Err(_) => self.open().await?,
            },
            None => self.open().await?,
        };
        session.deliver(&self.origin, records, progress).await?;
        self.session = Some(session);
        Ok(())
    }

    /// Ends the session and the connection. Takes up to 6 s.
    pub async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn open(&self) -> Result<Session, SinkError> {
        let connection = Connection::open(&self.address, self.tls.as_ref()).await?;
        let mut session = Session {
            connection,
            received: Vec::new(),
            next: 1,
        };
        let transaction = session.send(&mut Vec::new(), "open", OFFER).await?;
        let answer = session.receive().await?;
        if answer.transaction != transaction {
            return Err(session.answered(&answer));
        }
        session.confirm(&answer)?;
        Ok(session)
    }
}

/// An open session.
#[derive(Debug)]
struct Session {
    connection: Connection,
    /// Bytes that are not yet a whole answer.
    received: Vec<u8>,
    /// The number of the next transaction.
    next: u32,
}

impl Session {
    async fn deliver(
        &mut self,
        origin: &Origin,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        let mut rest = records.iter();
        let mut window = Window::default();
        let mut frames = Vec::new();
        loop {
            // Half a window at a time, so that the server has the other half to go on with.
            if window.waiting.len() <= WINDOW / 2 {
                for record in rest.by_ref().take(WINDOW - window.waiting.len()) {
                    window.push(self.push(&mut frames, "syslog", &origin.message(record)));
                }
            }
            if !frames.is_empty() {
                self.connection.write(&frames).await?;
                frames.clear();
            }
            if window.waiting.is_empty() {
                return Ok(());
            }
            let answer = self.receive().await?;
            self.confirm(&answer)?;
            match window.confirm(answer.transaction) {
                Some(done) => progress.done += done,
                None => return Err(self.answered(&answer)),
            }
        }
    }

    /// Appends a frame to `frames`, and returns the number of its transaction.
    fn push(&mut self, frames: &mut Vec<u8>, command: &str, data: &[u8]) -> u32 {
        let transaction = self.next;
        self.next = following(transaction);
        frame::push(frames, transaction, command, data);
        transaction
    }

    async fn send(
        &mut self,
        frames: &mut Vec<u8>,
        command: &str,
        data: &[u8],
    ) -> Result<u32, SinkError> {
        let transaction = self.push(frames, command, data);
        self.connection.write(frames).await?;
        Ok(transaction)
    }

    /// The next answer.
    async fn receive(&mut self) -> Result<Frame, SinkError> {
        loop {
            match frame::take(&mut self.received) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => self.connection.read(&mut self.received).await?,
                Err(_malformed) => {
                    let shown = escape(&self.received, SHOWN_BYTES).text;
                    return Err(self.said(format!("what is not RELP: `{shown}`")));
                }
            }
        }
    }

    fn confirm(&self, answer: &Frame) -> Result<(), SinkError> {
        match answer.reply() {
            Reply::Accepted => Ok(()),
            Reply::Closing => Err(self.said("that it closes the session".to_owned())),
            Reply::Other => Err(self.answered(answer)),
        }
    }

    fn answered(&self, answer: &Frame) -> SinkError {
        let data = escape(&answer.data, SHOWN_BYTES).text;
        self.said(format!(
            "`{} {data}` to message {} of the session",
            answer.command, answer.transaction
        ))
    }

    fn said(&self, answer: String) -> SinkError {
        SinkError::Answer {
            receiver: self.connection.receiver().to_owned(),
            answer,
        }
    }

    async fn close(mut self) {
        let ending = async {
            self.send(&mut Vec::new(), "close", b"").await?;
            self.receive().await
        };
        // It was the last that we wanted of it.
        drop(timeout(CLOSE_TIMEOUT, ending).await);
        self.connection.close().await;
    }
}

/// The number after that of a transaction: 0 is the server's.
const fn following(transaction: u32) -> u32 {
    if transaction >= MAX_TRANSACTION {
        1
    } else {
        transaction + 1
    }
}

/// Transactions that are sent, in order, and whether they are confirmed.
#[derive(Debug, Default)]
struct Window {
    waiting: VecDeque<(u32, bool)>,
}

impl Window {
    fn push(&mut self, transaction: u32) {
        self.waiting.push_back((transaction, false));
    }

    /// Notes that a transaction is confirmed, and returns how many more now are without a gap; nothing
    /// if it does not wait for that.
    fn confirm(&mut self, transaction: u32) -> Option<usize> {
        let waiting = self.waiting.iter_mut();
        let (_, is_confirmed) = waiting
            .filter(|(_, is_confirmed)| !*is_confirmed)
            .find(|(number, _)| *number == transaction)?;
        *is_confirmed = true;
        let mut done = 0;
        while let Some((_, true)) = self.waiting.front() {
            self.waiting.pop_front();
            done += 1;
        }
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_done_in_order_whatever_the_order_of_answers() {
        let mut window = Window::default();
        for transaction in [MAX_TRANSACTION, 1, 2, 3] {
            window.push(transaction);
        }
        for (transaction, done) in [
            (1, Some(0)),
            (1, None),
            (9, None),
            (MAX_TRANSACTION, Some(2)),
            (MAX_TRANSACTION, None),
            (2, Some(1)),
            (3, Some(1)),
            (3, None),
        ] {
            assert_eq!(window.confirm(transaction), done, "{transaction}");
        }
        assert_eq!(following(1), 2);
        assert_eq!(following(MAX_TRANSACTION), 1);
    }

    #[test]
    fn settings_need_an_address() {
        let parse = |text: &str| toml::from_str::<RelpSettings>(text);
        let settings = parse("address = \"siem:20514\"\ntls = {}\nhostname = \"h\"").unwrap();
        assert_eq!(settings.tls, Some(TlsSettings::default()));
        assert_eq!(settings.facility, Facility::Local0);
        for (text, wanted) in [
            ("", "missing field `address`"),
            ("address = \"siem\"", "expected `HOST:PORT`"),
            (
                "address = \"siem:1\"\nsocket = \"/x\"",
                "unknown field `socket`",
            ),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(wanted), "{wanted} for {text:?}: {said}");
        }
    }
}
