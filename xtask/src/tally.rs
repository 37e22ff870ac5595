//! What the tests of several programs came to, read from what they print.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// What the tests of several runs came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    /// What was ignored and has not been run since, by its name, with the reason.
    skipped: BTreeMap<String, String>,
    /// Commands that failed.
    broken: Vec<String>,
}

impl Tally {
    /// Runs what runs tests, such as `cargo test`, shows its output as it comes, and counts.
    pub(crate) fn run(&mut self, tests: &mut Command) -> Result<()> {
        self.run_until(tests, None)
    }

    /// The same for what may die half-way without its status telling so: unless it prints `farewell`,
    /// a line by itself, its tests failed.
    pub(crate) fn run_until(&mut self, tests: &mut Command, farewell: Option<&str>) -> Result<()> {
        let shown = command::describe(tests);
        println!("test: {shown}");
        let mut child = tests
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        let output = child.stdout.take().context("stdout is a pipe")?;
        let passed = self.passed;
        let mut ended_well = farewell.is_none();
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(|| format!("output of {shown}"))?;
            let line = String::from_utf8_lossy(&line);
            // Lines of a serial console end like this.
            let line = line.trim_end_matches('\r');
            println!("{line}");
            self.count(line);
            ended_well |= farewell == Some(line);
        }
        let status = child.wait()?;
        if !status.success() {
            self.broken.push(format!("{shown}: {status}"));
        } else if !ended_well {
            self.broken
                .push(format!("{shown}: its tests did not end well"));
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
    pub(crate) fn conclude(&self) -> Result<()> {
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

    #[test]
    fn what_dies_before_its_farewell_has_failed() {
        let run = |printed: &str| {
            let mut tally = Tally::default();
            tally
                .run_until(Command::new("printf").arg(printed), Some("bye"))
                .expect("printf runs");
            tally
        };
        let result = "test result: ok. 1 passed; 0 failed; 0 ignored\\r\\n";
        let well = run(&format!("{result}bye\\r\\n"));
        assert!(well.broken.is_empty(), "{:?}", well.broken);
        assert_eq!(well.passed, 1);
        for cut in [result, "bye\\n", ""] {
            assert!(run(cut).conclude().is_err(), "{cut:?}");
        }
    }
}
