//! The audit records that a daemon writes, as a test looks for them.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a record may take to appear. The first of its kind is never held back, but an emulated
/// machine takes its time.
const RECORD_TIMEOUT: Duration = Duration::from_secs(60);

/// A file of events, one JSON object a line.
#[derive(Clone, Debug)]
pub struct EventFile(PathBuf);

impl EventFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// All events up to now.
    ///
    /// # Panics
    ///
    /// If a whole line is not JSON.
    #[must_use]
    pub fn read(&self) -> Vec<Value> {
        self.text()
            .split_inclusive('\n')
            // The last line may still be in the writing.
            .filter(|line| line.ends_with('\n'))
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file as it is.
    #[must_use]
    pub fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }

    /// Waits for an event for which `wanted` holds.
    ///
    /// # Panics
    ///
    /// With all events, if there is none in time.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + RECORD_TIMEOUT;
        loop {
            let events = self.read();
            if let Some(event) = events.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            assert!(
                Instant::now() < deadline,
                "no record of {what} among these {}:\n{}",
                events.len(),
                self.text()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The identity that an event is accounted to.
#[must_use]
pub fn identity(event: &Value) -> &str {
    event["actor"]["app_name"].as_str().unwrap_or_default()
}

/// A field of agentguard's own.
#[must_use]
pub fn own<'a>(event: &'a Value, key: &str) -> &'a Value {
    &event["unmapped"]["agentguard"][key]
}
