//! Standard output: under systemd, the journal. A reader that is slow delays records, nothing else.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind},
    os::fd::AsFd,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;

use super::{Progress, Record, SinkError, file::write_some};

/// What a pipe that polls writable accepts without blocking (`PIPE_BUF`).
const PIPE_BYTES: usize = 4_096;

/// How soon a full pipe is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// The `stdout` table of a sink: there is nothing to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutSettings {}

/// Standard output.
#[derive(Debug, Default)]
pub struct Stdout {
    /// Another one, in tests.
    output: Option<File>,
    /// The record of this number was begun, and this is left of it.
    begun: Option<(u64, VecDeque<u8>)>,
}

impl Stdout {
    /// Ours.
    #[must_use]
    pub fn new(_: StdoutSettings) -> Self {
        Self::default()
    }

    /// Writes `records` in pieces that do not block; a record that was begun is ended before another one.
    ///
    /// # Errors
    ///
    /// If not all could be written.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        for record in records {
            if self
                .begun
                .as_ref()
                .is_some_and(|(begun, _)| *begun != record.sequence)
            {
                // It was taken back from the history, and ends here.
                self.write_begun().await?;
            }
            if self.begun.is_none() {
                let mut line = VecDeque::from(record.line.clone().into_bytes());
                line.push_back(b'\n');
                self.begun = Some((record.sequence, line));
            }
            self.write_begun().await?;
            progress.done += 1;
        }
        Ok(())
    }

    async fn write_begun(&mut self) -> Result<(), SinkError> {
        while let Some((_, rest)) = &mut self.begun {
            let piece = rest.make_contiguous();
            if piece.is_empty() {
                self.begun = None;
                break;
            }
            let written = match &self.output {
                Some(output) => write_ready(output, piece),
                None => write_ready(&io::stdout(), piece),
            };
            match written {
                Ok(count) => drop(rest.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(source) => {
                    return Err(SinkError::Io {
                        target: "stdout".to_owned(),
                        action: "write to",
                        source,
                    });
                }
            }
        }
        Ok(())
    }
}

fn write_ready(output: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO)? == 0 {
        return Err(ErrorKind::WouldBlock.into());
    }
    let bytes = &bytes[..bytes.len().min(PIPE_BYTES)];
    write_some(Descriptor(output), bytes)
}

/// Writes to a descriptor as it is: what is behind may be shared, and has no buffer of ours.
struct Descriptor<'a, F>(&'a F);

impl<F: AsFd> io::Write for Descriptor<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pipe_that_nobody_reads_does_not_block() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut stdout = Stdout {
            output: Some(writer.into()),
            begun: None,
        };
        let records: Vec<Record> = (1..=200)
            .map(|sequence| Record {
                sequence,
                time_ms: 0,
                severity: 1,
                line: format!("{sequence:999}"),
            })
            .collect();
        let mut received = Vec::new();
        let mut done = 0;
        while done < records.len() {
            let mut progress = Progress::default();
            let attempt = stdout.deliver(&records[done..], &mut progress);
            // Given up in the middle of a line, again and again.
            drop(tokio::time::timeout(Duration::from_secs(1), attempt).await);
            done += progress.done;
            let mut buffer = [0; 10_000];
            let count = nix::unistd::read(&reader, &mut buffer).unwrap();
            received.extend_from_slice(&buffer[..count]);
        }
        drop(stdout);
        io::Read::read_to_end(&mut File::from(reader), &mut received).unwrap();
        let wanted: String = records
            .iter()
            .map(|record| format!("{}\n", record.line))
            .collect();
        assert_eq!(received, wanted.into_bytes());
    }
}
