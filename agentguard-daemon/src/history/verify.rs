//! Whether lines are all there, in order, and as they were written.
//!
//! What one line says of the line before it finds an edit, a deletion, a line out of place and one that
//! came twice, each at its number. Checkpoints then say that nobody made the whole chain up: each is
//! signed by the key that the one before it named, and so on back to the first key, which whoever
//! checks should have from elsewhere.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use serde_json::Value;

use super::{HistoryError, Reader};
use crate::audit::{
    Checkpoint,
    chain::{self, Hash, Position, from_hex},
    checkpoint::PublicKey,
};

/// Longest line that is read.
const MAX_LINE: u64 = 1 << 20;

/// What was found, in words, with its number where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is no record.
    NotARecord {
        /// Number of the line in what was read, from 1.
        line: u64,
    },
    /// Records are not there.
    Missing {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// A record came again, as it was.
    Repeated {
        /// Which.
        sequence: u64,
    },
    /// A record comes after one with a higher number.
    OutOfOrder {
        /// Which.
        sequence: u64,
        /// The one before it.
        after: u64,
    },
    /// A record is not what it was when the next one was written.
    Altered {
        /// Which.
        sequence: u64,
    },
    /// A signature is not of its key, or not for this place.
    BadSignature {
        /// Of which checkpoint.
        sequence: u64,
    },
    /// A checkpoint is signed by another key than the one before it named.
    WrongKey {
        /// Which.
        sequence: u64,
    },
    /// The key has been used for more than is here: what came after this record was cut off.
    CutOff {
        /// The last record that is here.
        after: u64,
    },
    /// The oldest records are not here, and none says that retention let them go.
    Gone {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
}

/// What was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records.
    pub records: u64,
    /// The first one.
    pub first: Option<u64>,
    /// The last one.
    pub last: Option<u64>,
    /// Checkpoints among them whose signature holds.
    pub checkpoints: u64,
    /// Records after the last checkpoint: nobody vouches for them yet.
    pub unsigned: u64,
    /// Whether the first checkpoint is signed by the key that was given.
    pub from_known_key: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Takes lines in, in the order in which they stand.
#[derive(Debug)]
pub struct Verifier {
    report: Report,
    lines: u64,
    /// Hash and number of the last line in order.
    last: Option<(u64, Hash)>,
    /// Who signs next.
    expected: Option<PublicKey>,
    is_signed: bool,
    /// Whether all is to be here that nothing says went.
    is_all: bool,
    /// The last record of which one that is here says that retention let it go.
    removed: u64,
}

impl Verifier {
    /// The first checkpoint of all must be signed by `first_key`, where that is known.
    #[must_use]
    pub fn new(first_key: Option<PublicKey>) -> Self {
        Self {
            report: Report::default(),
            lines: 0,
            last: None,
            expected: first_key,
            is_signed: false,
            is_all: false,
            removed: 0,
        }
    }

    /// The next line, without its newline.
    pub fn feed(&mut self, line: &str) {
        self.lines += 1;
        let Some((position, parsed)) = parse(line) else {
            self.find(Finding::NotARecord { line: self.lines });
            return;
        };
        let sequence = position.sequence;
        self.report.records += 1;
        match self.last {
            Some((last, hash)) if sequence == last + 1 => {
                if position.previous != hash {
                    self.find(Finding::Altered { sequence: last });
                }
            }
            Some((last, hash)) if sequence == last && chain::hash(line) == hash => {
                self.find(Finding::Repeated { sequence });
                return;
            }
            Some((last, _)) if sequence <= last => {
                self.find(Finding::OutOfOrder {
                    sequence,
                    after: last,
                });
                return;
            }
            Some((last, _)) => self.find(Finding::Missing {
                from: last + 1,
                to: sequence - 1,
            }),
            None => {
                self.report.first = Some(sequence);
                // Of what retention has removed, the keys have been used up.
                if sequence > 1 {
                    self.expected = None;
                }
            }
        }
        self.last = Some((sequence, chain::hash(line)));
        self.report.last = Some(sequence);
        self.report.unsigned += 1;
        let removed = &parsed["unmapped"]["agentguard"]["removed"]["last"];
        // Only what came before it can have gone.
        let removed = removed.as_u64().filter(|last| *last < sequence);
        self.removed = self.removed.max(removed.unwrap_or(0));
        if let Some(checkpoint) = checkpoint(&parsed) {
            self.check(position, &checkpoint);
        }
    }

    fn check(&mut self, position: Position, checkpoint: &Checkpoint) {
        let sequence = position.sequence;
        if !checkpoint.is_signed(position) {
            self.find(Finding::BadSignature { sequence });
            return;
        }
        match self.expected {
            Some(expected) if expected != checkpoint.key => {
                self.find(Finding::WrongKey { sequence });
            }
            Some(_) if !self.is_signed => self.report.from_known_key = true,
            Some(_) | None => {}
        }
        self.is_signed = true;
        self.expected = Some(checkpoint.next_key);
        self.report.checkpoints += 1;
        self.report.unsigned = 0;
    }

    /// What was found; `current_key` is the key that signs next, where that is known.
    #[must_use]
    pub fn finish(mut self, current_key: Option<PublicKey>) -> Report {
        if let (Some(current), Some(expected)) = (current_key, self.expected)
            && current != expected
            && (self.is_signed || self.last.is_none())
        {
            let after = self.last.map_or(0, |(last, _)| last);
            self.find(Finding::CutOff { after });
        }
        if let Some(first) = self.report.first
            && self.is_all
            && self.removed + 1 < first
        {
            self.find(Finding::Gone {
                from: self.removed + 1,
                to: first - 1,
            });
        }
        self.report
    }

    fn find(&mut self, finding: Finding) {
        self.report.findings.push(finding);
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotARecord { line } => write!(formatter, "line {line} is no record"),
            Self::Missing { from, to } if from == to => {
                write!(formatter, "record {from} is missing")
            }
            Self::Missing { from, to } => write!(formatter, "records {from} to {to} are missing"),
            Self::Repeated { sequence } => write!(formatter, "record {sequence} is there twice"),
            Self::OutOfOrder { sequence, after } => {
                write!(formatter, "record {sequence} stands after record {after}")
            }
            Self::Altered { sequence } => write!(
                formatter,
                "record {sequence} was altered: the next one was written after another one"
            ),
            Self::BadSignature { sequence } => {
                write!(formatter, "the signature of checkpoint {sequence} is wrong")
            }
            Self::WrongKey { sequence } => write!(
                formatter,
                "checkpoint {sequence} is signed by another key than the one that was announced"
            ),
            Self::CutOff { after } => write!(
                formatter,
                "what came after record {after} was cut off: its checkpoints used up keys"
            ),
            Self::Gone { from, to } if from == to => write!(
                formatter,
                "record {from} is gone, and no record says that retention let it go"
            ),
            Self::Gone { from, to } => write!(
                formatter,
                "records {from} to {to} are gone, and no record says that retention let them go"
            ),
        }
    }
}

/// The place that a line says it has, and what else it says.
fn parse(line: &str) -> Option<(Position, Value)> {
    let parsed: Value = serde_json::from_str(line).ok()?;
    let sequence = parsed["metadata"]["sequence"].as_u64()?;
    let previous = from_hex(parsed["unmapped"]["agentguard"]["previous"].as_str()?)?;
    Some((Position { sequence, previous }, parsed))
}

fn checkpoint(parsed: &Value) -> Option<Checkpoint> {
    let checkpoint = parsed["unmapped"]["agentguard"].get("checkpoint")?;
    let text = |key: &str| checkpoint[key].as_str().unwrap_or_default();
    Some(Checkpoint {
        time_ms: parsed["time"].as_i64()?,
        key: from_hex(text("key")).unwrap_or_default(),
        next_key: from_hex(text("next_key")).unwrap_or_default(),
        signature: from_hex(text("signature")).unwrap_or([0; 64]),
    })
}

/// Feeds all of the history in `directory`.
///
/// # Errors
///
/// If it cannot be read.
pub fn feed_history(directory: &Path, verifier: &mut Verifier) -> Result<(), HistoryError> {
    verifier.is_all = true;
    let mut reader = Reader::new(directory);
    let mut last = 0;
    loop {
        let records = reader.after(last)?;
        let Some(newest) = records.last() else {
            return Ok(());
        };
        last = newest.record.sequence;
        for stored in records {
            verifier.feed(&stored.record.line);
        }
    }
}

/// Feeds the lines of a file of a sink; one that ends in `.zst` is unpacked.
///
/// # Errors
///
/// If it cannot be read.
pub fn feed_file(path: &Path, verifier: &mut Verifier) -> io::Result<()> {
    let file = File::open(path)?;
    if path.extension().is_some_and(|it| it == "zst") {
        feed_lines(BufReader::new(zstd::Decoder::new(file)?), verifier)
    } else {
        feed_lines(BufReader::new(file), verifier)
    }
}

fn feed_lines(mut lines: impl BufRead, verifier: &mut Verifier) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        verifier.feed(&String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
mod tests;
