//! Which call failed, and why.

use std::io;

use agentguard_tests::probe::Report;

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    step: &'static str,
    error: io::Error,
}

impl From<Failure> for Report {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            step: failure.step.to_owned(),
            errno: failure.error.raw_os_error().unwrap_or(0),
        }
    }
}

/// Names the call that a result is of.
pub(crate) trait Step<T> {
    /// `name` is the system call, as a test expects it.
    fn step(self, name: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, name: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            step: name,
            error: error.into(),
        })
    }
}
