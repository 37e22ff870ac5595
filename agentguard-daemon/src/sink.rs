//! Sinks: where lines go. A sink knows lines and nothing of what is in them.
//!
//! [`Sink::deliver`] queues, [`Sink::flush`] writes all that is queued. What a flush could not write
//! stays queued for the next; only beyond [`QUEUE_BYTES`] lines are lost, and counted.

#![forbid(unsafe_code)]

mod host;
pub mod http;
pub mod kafka;
pub mod otlp;
mod output;
pub mod secret;
pub mod splunk;
pub mod tls;
pub mod webhook;

use std::{io, path::Path};

use self::output::Output;

/// Most bytes that wait for a sink that does not accept them: 4 MiB.
pub const QUEUE_BYTES: usize = 4 << 20;

/// Why a sink did not open or accept what it was given.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The target is not a file that is ours alone.
    #[error("audit file `{path}` refused: {why}")]
    Refused {
        /// The target.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system refused.
    #[error("sink `{sink}`: cannot {action}: {source}")]
    Io {
        /// Name of the sink.
        sink: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What a person has to mend: a file of a certificate, a secret, a name.
    #[error("{0}")]
    Settings(String),
    /// The receiver is not there, or went away.
    #[error("cannot {action} {receiver}: {source}")]
    Unreachable {
        /// Whom: `siem.example.com:6514`.
        receiver: String,
        /// What was tried: `connect to`, `send to`.
        action: &'static str,
        /// What the system or TLS said.
        source: io::Error,
    },
    /// The receiver said no, or something that is no answer.
    #[error("{receiver} answered {answer}")]
    Answer {
        /// Whom.
        receiver: String,
        /// What it said, in its words, escaped and cut.
        answer: String,
    },
    /// The receiver took too long.
    #[error("{receiver} did not answer within {seconds} s")]
    TimedOut {
        /// Whom.
        receiver: String,
        /// For how long it was waited.
        seconds: u64,
    },
}

/// A record as sinks get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in the history, from 1, without gaps.
    pub sequence: u64,
    /// When it happened, Unix time in milliseconds.
    pub time_ms: i64,
    /// `severity_id` of OCSF: 1 informational, 2 low, 3 medium, 4 high, 5 critical.
    pub severity: u8,
    /// One line of OCSF JSON, without its newline; valid UTF-8 without control characters.
    pub line: String,
}

/// How far a batch has come; it counts also where the rest of it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records from the start of the batch that need not be sent again.
    pub done: usize,
    /// Of those, how many the receiver refused for good.
    pub refused: usize,
}

/// How a sink is doing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SinkStatus {
    /// `stdout`, or the path of the file.
    pub name: String,
    /// Lines written whole.
    pub delivered_lines: u64,
    /// Lines that wait.
    pub queued_lines: u64,
    /// Lines that found the queue full.
    pub lost_lines: u64,
    /// Writes that failed.
    pub errors: u64,
    /// Why the last flush failed, until one succeeds.
    pub last_error: Option<String>,
}

/// A target and the lines that wait for it.
#[derive(Debug)]
pub struct Sink {
    output: Output,
    queue: Vec<u8>,
    status: SinkStatus,
}

impl Sink {
    /// Standard output. A reader that is slow delays lines, never the caller.
    pub fn stdout() -> Result<Self, SinkError> {
        Output::stdout().map(|output| Self::new("stdout".into(), output))
    }

    /// The file at `path`, made with mode 0640 if there is none, its directory with 0750.
    ///
    /// A symbolic link, anything that is not a regular file, and a file of another owner are
    /// refused: whoever made them would choose where the audit trail goes.
    pub fn file(path: &Path) -> Result<Self, SinkError> {
        Output::file(path).map(|output| Self::new(path.display().to_string(), output))
    }

    fn new(name: String, output: Output) -> Self {
        Self {
            output,
            queue: Vec::new(),
            status: SinkStatus {
                name,
                delivered_lines: 0,
                queued_lines: 0,
                lost_lines: 0,
                errors: 0,
                last_error: None,
            },
        }
    }

    /// Queues `line`, which has no newline.
    pub fn deliver(&mut self, line: &str) {
        if self.queue.len() + line.len() >= QUEUE_BYTES {
            self.status.lost_lines += 1;
            return;
        }
        self.queue.extend_from_slice(line.as_bytes());
        self.queue.push(b'\n');
        self.status.queued_lines += 1;
    }

    /// Writes what is queued. After an error the rest is still queued: call again later.
    pub fn flush(&mut self) -> Result<(), SinkError> {
        let result = self.write_queue();
        match result {
            Ok(()) => {
                self.status.last_error = None;
                Ok(())
            }
            Err(source) => {
                self.status.errors += 1;
                let error = SinkError::Io {
                    sink: self.status.name.clone(),
                    action: "write",
                    source,
                };
                self.status.last_error = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// Opens the file anew, after a log rotation moved it away. On an error the old one stays.
    pub fn reopen(&mut self) -> Result<(), SinkError> {
        self.output.reopen()
    }

    /// How it is doing.
    #[must_use]
    pub const fn status(&self) -> &SinkStatus {
        &self.status
    }

    fn write_queue(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            let rest = &self.queue[written..];
            if rest.is_empty() {
                break Ok(());
            }
            match self.output.write(rest) {
                Ok(count) => written += count,
                Err(error) => break Err(error),
            }
        };
        let done = self.queue.drain(..written).filter(|&byte| byte == b'\n');
        let lines = done.count() as u64;
        self.status.delivered_lines += lines;
        self.status.queued_lines -= lines;
        result
    }
}

#[cfg(test)]
mod tests;
