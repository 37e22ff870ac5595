//! `agentguard audit`: whether what is kept is all there, and as it was written.

use std::{fs, path::PathBuf};

use clap::Subcommand;

use super::{Failure, Output, Place, print_json, printable};
use crate::{
    audit::{chain::from_hex, checkpoint::PublicKey},
    history::{
        key::{FIRST_KEY, current_key},
        verify::{Report, Verifier, feed_file, feed_history},
    },
};

#[derive(Subcommand)]
pub(super) enum Audit {
    /// Look for records that were altered, removed, moved or repeated, and say where.
    ///
    /// Without files, the history of this host. With files, lines as a sink got them, in their order:
    /// files in JSON lines, also those that rotation compressed.
    Verify {
        /// Files of JSON lines, oldest first.
        files: Vec<PathBuf>,
        /// The key that signed the first checkpoint, as `agentguard audit key` printed it once. Keep it
        /// where nobody on the host can change it.
        #[arg(long, value_name = "HEX", value_parser = parse_key)]
        key: Option<PublicKey>,
        #[command(flatten)]
        output: Output,
    },
    /// Print the key of the first checkpoint, from which all can be checked.
    Key,
}

fn parse_key(text: &str) -> Result<PublicKey, String> {
    from_hex(text.trim()).ok_or_else(|| "a key is 64 hexadecimal digits".to_owned())
}

impl Audit {
    pub(super) fn run(&self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::Verify { files, key, output } => verify(place, files, *key, *output),
            Self::Key => {
                let path = place.history()?.join(FIRST_KEY);
                let key = fs::read_to_string(&path).map_err(|error| {
                    Failure::Unavailable(format!("no key at {}: {error}", path.display()))
                })?;
                say!("{}", printable(key.trim()));
                Ok(())
            }
        }
    }
}

fn verify(
    place: &Place,
    files: &[PathBuf],
    key: Option<PublicKey>,
    output: Output,
) -> Result<(), Failure> {
    let report = if files.is_empty() {
        let directory = place.history()?;
        let own = fs::read_to_string(directory.join(FIRST_KEY)).ok();
        // What lies beside the records can be replaced with them; better than nothing.
        let key = key.or_else(|| own.as_deref().and_then(|own| from_hex(own.trim())));
        let mut verifier = Verifier::new(key);
        // Read before the records: a running daemon may sign meanwhile.
        let current = current_key(&directory).unwrap_or_default();
        feed_history(&directory, &mut verifier)?;
        let still = current_key(&directory).unwrap_or_default();
        verifier.finish(current.filter(|_| current == still))
    } else {
        let mut verifier = Verifier::new(key);
        for file in files {
            feed_file(file, &mut verifier).map_err(|error| {
                Failure::Unavailable(format!("cannot read {}: {error}", file.display()))
            })?;
        }
        verifier.finish(None)
    };
    if output.json {
        print_json(&as_json(&report))?;
    } else {
        print(&report);
    }
    if report.findings.is_empty() {
        Ok(())
    } else {
        Err(Failure::No)
    }
}

fn as_json(report: &Report) -> serde_json::Value {
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "records": report.records,
        "first": report.first,
        "last": report.last,
        "checkpoints": report.checkpoints,
        "unsigned": report.unsigned,
        "from-known-key": report.from_known_key,
        "findings": findings,
    })
}

fn print(report: &Report) {
    match (report.first, report.last) {
        (Some(first), Some(last)) => say!("{} records, {first} to {last}", report.records),
        _ => say!("no records"),
    }
    for finding in &report.findings {
        say!("{finding}");
    }
    let Some(first) = report.first else { return };
    say!(
        "{} checkpoints hold; {} records after the last one wait for the next",
        report.checkpoints,
        report.unsigned
    );
    if first > 1 {
        say!("what came before record {first} is not here: the first key is taken on trust");
    } else if report.checkpoints > 0 && !report.from_known_key {
        say!("the first key is taken on trust: give the one you know by --key");
    }
    if report.findings.is_empty() {
        say!("nothing was altered, removed, moved or repeated");
    }
}
