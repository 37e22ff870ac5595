//! Runs every test there is, those on the running kernel included, and adds up what happened.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::{build, command, setup, workspace};

/// The package that holds the OCSF schemas, and the validator that it needs to be imported.
const SCHEMA_PACKAGES: [&str; 2] = ["ocsf-json-schema==1.2.0", "jsonschema"];

/// Runs all tests; `filter` goes to the end-to-end tests.
pub(crate) fn run(filter: &[String]) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("the end-to-end tests need root (those that don't: `cargo test`)");
    }
    setup::namespace_tools()?;
    let agentguard = build::run(&build::Options::default())?;
    // What it needs of the machine is asserted of the daemon that people run.
    let optimised = build::run(&build::Options { release: true })?;
    let schemas = export_schemas()?;

    let mut tally = Tally::default();
    tally.run(&mut command::cargo(["test", "--no-fail-fast"]))?;
    tally.run(
        command::cargo(["test", "--package", "agentguard-daemon", "--test", "ocsf"])
            .args(["--", "--ignored"])
            .env("AGENTGUARD_OCSF_SCHEMAS", schemas),
    )?;
    tally.run(
        command::cargo([
            "test",
            "--package",
            "agentguard-tests",
            "--no-fail-fast",
            "--",
        ])
        .args(filter)
        .env("AGENTGUARD_BIN", agentguard)
        .env("AGENTGUARD_RELEASE_BIN", optimised),
    )?;
    tally.conclude()
}

/// Exports the published OCSF schemas, once, and returns the directory that holds them.
fn export_schemas() -> Result<PathBuf> {
    let ocsf = workspace::target().join("ocsf");
    let schemas = ocsf.join("schemas");
    // The mark is written last: a run that was cut off is begun again.
    let complete = ocsf.join("complete");
    if !complete.exists() {
        println!("setup: exporting the OCSF schemas to {}", schemas.display());
        setup::python_environments()?;
        let venv = ocsf.join("venv");
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        command::run(
            Command::new(venv.join("bin/pip"))
                .args(["install", "--quiet"])
                .args(SCHEMA_PACKAGES),
        )?;
        let script = workspace::root().join("agentguard-daemon/tests/export_ocsf_schemas.py");
        command::run(
            Command::new(venv.join("bin/python"))
                .arg(script)
                .arg(&schemas),
        )?;
        std::fs::write(&complete, []).context("cannot write to target/ocsf")?;
    }
    Ok(schemas)
}

/// What the tests of several runs came to.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    /// What was ignored and has not been run since, by its name, with the reason.
    skipped: BTreeMap<String, String>,
    /// Commands that failed.
    broken: Vec<String>,
}

impl Tally {
    /// Runs a `cargo test`, shows its output as it comes, and counts.
    fn run(&mut self, cargo: &mut Command) -> Result<()> {
        let shown = command::describe(cargo);
        println!("test: {shown}");
        let mut child = cargo
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        let output = child.stdout.take().context("stdout is a pipe")?;
        let passed = self.passed;
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(|| format!("output of {shown}"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            self.count(&line);
        }
        let status = child.wait()?;
        if !status.success() {
            self.broken.push(format!("{shown}: {status}"));
        } else if self.passed == passed {
            self.broken.push(format!("{shown}: no test ran"));
        }
        Ok(())
    }

    /// Reads one line of libtest's output.
    fn count(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
            for count in counts.split("; ") {
                match count.split_once(' ') {
                    Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                    Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                    _ => {}
                }
            }
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|test| test.rsplit_once(" ... "))
        {
            match outcome.strip_prefix("ignored") {
                Some(reason) => {
                    let reason = reason.trim_start_matches(", ");
                    self.skipped.insert(name.to_owned(), reason.to_owned());
                }
                None => {
                    self.skipped.remove(name);
                }
            }
        }
    }

    /// Prints the sum; an error if anything failed or was left out.
    fn conclude(&self) -> Result<()> {
        for (name, reason) in &self.skipped {
            println!("skipped: {name} ({reason})");
        }
        for broken in &self.broken {
            println!("failed: {broken}");
        }
        let skipped = self.skipped.len();
        println!(
            "{} passed, {} failed, {skipped} skipped",
            self.passed, self.failed
        );
        if self.failed > 0 || skipped > 0 || !self.broken.is_empty() {
            bail!("not every test passed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.count(line));
        tally
    }

    #[test]
    fn results_of_all_binaries_are_added_up() {
        let tally = tally(
            "test a ... ok\n\
             test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.00s\n",
        );
        assert_eq!((tally.passed, tally.failed), (15, 2));
        assert!(tally.conclude().is_err());
    }

    #[test]
    fn an_ignored_test_is_skipped_until_a_later_run_runs_it() {
        let ignored = "test events::close ... ignored, needs the schemas\ntest b ... ignored\n";
        let skipped = tally(ignored).skipped;
        assert_eq!(skipped["events::close"], "needs the schemas");
        assert_eq!(skipped["b"], "");

        let ran = tally(&format!("{ignored}test events::close ... ok\n"));
        assert_eq!(ran.skipped.into_keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_skipped_test_fails_the_whole() {
        assert!(
            tally("test result: ok. 1 passed; 0 failed; 0 ignored\n")
                .conclude()
                .is_ok()
        );
        assert!(tally("test b ... ignored\n").conclude().is_err());
    }
}
