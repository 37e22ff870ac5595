//! `agentguard policy`: policy files, without a daemon.

use std::path::PathBuf;

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::json;

use super::{Failure, Output, Place, print_json, render};
use crate::{
    daemon::host,
    policy::{self, Diagnostics, Sources},
};

#[derive(Subcommand)]
pub(super) enum Policy {
    /// Check policy files: all errors at once, with place and mend.
    Check {
        /// Files, or drop-in directories in rising precedence; by default those of the settings.
        paths: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Print the JSON Schema of a policy file.
    Schema,
}

impl Policy {
    pub(super) fn run(self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::Check { paths, output } => check(&read(&paths, place)?, output),
            Self::Schema => print_json(&policy::schema()),
        }
    }
}

/// The files at `paths`, or those that the settings name.
pub(super) fn read(paths: &[PathBuf], place: &Place) -> Result<Sources, Failure> {
    Ok(if paths.is_empty() {
        policy::read_directories(&place.settings()?.policy_dirs)
    } else {
        policy::read_paths(paths)
    })
}

fn check(sources: &Sources, output: Output) -> Result<(), Failure> {
    let (findings, summary) = match policy::load(sources).and_then(|policy| {
        let facts = host::facts(&policy);
        policy::compile(&policy, &facts).map(|compiled| (policy, facts, compiled))
    }) {
        Ok((policy, facts, compiled)) => {
            let summary = format!(
                "{} files, {} identities, {} rules",
                sources.files.len(),
                policy.identities.len(),
                compiled.rule_sources.len()
            );
            (policy::review(&policy, &facts, Timestamp::now()), summary)
        }
        Err(errors) => (errors, format!("{} files", sources.files.len())),
    };
    report(&findings, &summary, output)?;
    if findings.errors() > 0 {
        Err(Failure::No)
    } else {
        Ok(())
    }
}

fn report(findings: &Diagnostics, summary: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        return print_json(&json!({
            "valid": findings.errors() == 0,
            "errors": findings.errors(),
            "warnings": findings.warnings(),
            "findings": findings,
        }));
    }
    if !findings.is_empty() {
        eprintln!("{}", render(findings));
    }
    let verdict = if findings.errors() == 0 {
        "valid"
    } else {
        "refused"
    };
    let found = findings.summary();
    let separator = if found.is_empty() { "" } else { "; " };
    say!("{verdict}: {summary}{separator}{found}");
    Ok(())
}
