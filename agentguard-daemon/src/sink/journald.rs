//! To the journal of systemd, by its native protocol: the JSON line as `MESSAGE`, and beside it
//! `PRIORITY`, `SYSLOG_IDENTIFIER=agentguard`, `AGENTGUARD_SEQUENCE` (the number of the record) and
//! `AGENTGUARD_TIME_MS` (Unix time of the event in milliseconds).
//!
//! An entry that does not fit into a datagram goes as a sealed file in memory, which the journal reads.
//!
//! # Not acknowledged
//!
//! The journal has no answers. On a host that systemd has booted, its socket outlives journald, so what
//! waits there is kept while it is restarted. What journald had read and not yet written is lost if it is
//! killed; and beyond `RateLimitBurst=` (10,000 in 30 s by default) it drops entries of a service, and
//! notes in the journal how many: set `LogRateLimitIntervalSec=0` in the unit. `journalctl -o json` shows
//! fields beyond 4 KiB as null unless it is given `--all`.

use std::{
    io::{self, IoSlice, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg},
    },
};
use serde::Deserialize;
use tokio::{io::Interest, net::UnixDatagram, time::timeout};

use super::{
    Progress, Record, SinkError,
    connection::ANSWER_TIMEOUT,
    syslog::{open_datagram, severity},
};

/// The table of a journal.
///
/// | key | type | default |
/// |---|---|---|
/// | `socket` | path | `/run/systemd/journal/socket` |
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct JournaldSettings {
    /// The socket of its native protocol.
    pub socket: PathBuf,
}

impl Default for JournaldSettings {
    fn default() -> Self {
        Self {
            socket: "/run/systemd/journal/socket".into(),
        }
    }
}

/// A journal.
#[derive(Debug)]
pub struct Journald {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Journald {
    /// A journal that is connected to once there is something to deliver.
    #[must_use]
    pub fn new(settings: JournaldSettings) -> Self {
        Self {
            path: settings.socket,
            socket: None,
        }
    }

    /// Sends `records` in order, and returns once all are in the queue of the socket. A call may be
    /// dropped: an entry is sent whole or not at all.
    ///
    /// # Errors
    ///
    /// If there is no journal, or it does not read for 30 s.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open_datagram(&self.path)?,
        };
        for record in records {
            send(&socket, &self.path, &entry(record)).await?;
            progress.done += 1;
        }
        self.socket = Some(socket);
        Ok(())
    }

    /// Lets go of the socket.
    #[expect(clippy::unused_async, reason = "all sinks are closed alike")]
    pub async fn close(&mut self) {
        self.socket = None;
    }
}

async fn send(socket: &UnixDatagram, path: &Path, entry: &[u8]) -> Result<(), SinkError> {
    let sending = async {
        match socket.send(entry).await {
            Err(error) if is_too_large(&error) => send_file(socket, entry).await,
            result => result.map(drop),
        }
    };
    match timeout(ANSWER_TIMEOUT, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(SinkError::Unreachable {
            receiver: path.display().to_string(),
            action: "send to",
            source,
        }),
        Err(_elapsed) => Err(SinkError::TimedOut {
            receiver: path.display().to_string(),
            seconds: ANSWER_TIMEOUT.as_secs(),
        }),
    }
}

fn is_too_large(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EMSGSIZE | Errno::ENOBUFS))
}

/// Sends an entry as a file that can no longer be changed: the journal maps no other.
async fn send_file(socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create("agentguard", flags)?);
    file.write_all(entry)?;
    let seals = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SEAL;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    let passed = [file.as_raw_fd()];
    socket
        .async_io(Interest::WRITABLE, || {
            sendmsg::<UnixAddr>(
                socket.as_raw_fd(),
                &[IoSlice::new(&[])],
                &[ControlMessage::ScmRights(&passed)],
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
                None,
            )
            .map(drop)
            .map_err(io::Error::from)
        })
        .await
}

/// An entry in the journal's form: `NAME=VALUE` and a newline, or for a value that may hold anything
/// its length in front.
fn entry(record: &Record) -> Vec<u8> {
    let line = record.line.as_bytes();
    let mut entry = Vec::with_capacity(line.len() + 192);
    entry.extend_from_slice(b"MESSAGE\n");
    entry.extend_from_slice(&(line.len() as u64).to_le_bytes());
    entry.extend_from_slice(line);
    // Writing to a `Vec` cannot fail.
    write!(
        entry,
        "\nPRIORITY={}\nSYSLOG_IDENTIFIER=agentguard\nAGENTGUARD_SEQUENCE={}\nAGENTGUARD_TIME_MS={}\n",
        severity(record.severity),
        record.sequence,
        record.time_ms
    )
    .ok();
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_the_line_and_what_it_is_found_by() {
        let record = Record {
            sequence: 7,
            time_ms: 1_700_000_000_123,
            severity: 4,
            line: "{\"a\":\"ü\"}".to_owned(),
        };
        assert_eq!(
            entry(&record),
            "MESSAGE\n\u{a}\0\0\0\0\0\0\0{\"a\":\"ü\"}\nPRIORITY=3\nSYSLOG_IDENTIFIER=agentguard\n\
             AGENTGUARD_SEQUENCE=7\nAGENTGUARD_TIME_MS=1700000000123\n"
                .as_bytes()
        );
    }

    #[test]
    fn settings_have_a_default() {
        let parse = |text: &str| toml::from_str::<JournaldSettings>(text);
        let settings = parse("").unwrap();
        assert_eq!(settings.socket, Path::new("/run/systemd/journal/socket"));
        assert!(parse("path = \"/x\"").is_err());
    }
}
