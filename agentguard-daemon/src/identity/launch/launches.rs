//! What was launched and still has its cgroup, kept over restarts of the daemon.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::file;

/// Between two looks whether the cgroups of launches have become empty.
const PAUSE: Duration = Duration::from_secs(10);

/// Launches at a time.
const MAX_LAUNCHES: usize = 4_096;

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Launch {
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Path of that below the cgroup root.
    pub path: String,
    /// Name of the identity.
    pub identity: String,
    /// Why.
    pub reason: Option<String>,
    /// Who asked.
    pub user: u32,
    /// The groups that he was in.
    pub groups: Vec<u32>,
    /// Who logged in, if somebody did.
    pub login_user: Option<u32>,
    /// The process.
    pub pid: u32,
    /// The name that it had.
    pub comm: String,
}

/// The launches of this boot whose cgroups may still be.
#[derive(Debug)]
pub struct Launches {
    path: PathBuf,
    saved: Saved,
    due: Option<Instant>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Saved {
    boot_id: String,
    launches: Vec<Launch>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum LaunchesError {
    /// The file cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file does not hold launches.
    #[error("{path} is damaged: {source}; remove it when nothing launched runs any more", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        source: serde_json::Error,
    },
    /// There are too many.
    #[error("more than {MAX_LAUNCHES} launches at a time")]
    Full,
}

impl Launches {
    /// Opens the file at `path` for the boot `boot_id`. What another boot left is not used.
    ///
    /// # Errors
    ///
    /// If the file is there and cannot be read, or is damaged: what was launched would be judged as
    /// something else.
    pub fn open(path: &Path, boot_id: &str) -> Result<Self, LaunchesError> {
        let found = match fs::read(path) {
            Ok(bytes) => Some(serde_json::from_slice::<Saved>(&bytes).map_err(|source| {
                LaunchesError::Damaged {
                    path: path.to_owned(),
                    source,
                }
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(LaunchesError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let saved = found
            .filter(|saved| saved.boot_id == boot_id)
            .unwrap_or_else(|| Saved {
                boot_id: boot_id.to_owned(),
                launches: Vec::new(),
            });
        let mut launches = Self {
            path: path.to_owned(),
            saved,
            due: None,
        };
        launches.schedule();
        Ok(launches)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Launch> {
        self.saved.launches.iter()
    }

    /// That of a cgroup.
    #[must_use]
    pub fn find(&self, cgroup_id: u64) -> Option<&Launch> {
        self.iter().find(|launch| launch.cgroup_id == cgroup_id)
    }

    /// When to look next; `None` while there are none.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Adds one; it is on disk before this returns.
    ///
    /// # Errors
    ///
    /// If there are too many, or the file cannot be written; then it is not added.
    pub fn add(&mut self, launch: Launch) -> Result<(), LaunchesError> {
        if self.saved.launches.len() >= MAX_LAUNCHES {
            return Err(LaunchesError::Full);
        }
        let mut saved = self.saved.clone();
        saved.launches.push(launch);
        self.replace(saved)
    }

    /// Removes those of which `is_over` says so.
    ///
    /// # Errors
    ///
    /// If the file cannot be written; then all stay.
    pub fn clear(&mut self, mut is_over: impl FnMut(&Launch) -> bool) -> Result<(), LaunchesError> {
        self.schedule();
        let mut saved = self.saved.clone();
        saved.launches.retain(|launch| !is_over(launch));
        if saved.launches.len() == self.saved.launches.len() {
            return Ok(());
        }
        self.replace(saved)
    }

    fn replace(&mut self, saved: Saved) -> Result<(), LaunchesError> {
        let written = serde_json::to_vec(&saved)
            .map_err(io::Error::from)
            .and_then(|bytes| file::replace(&self.path, &bytes));
        written.map_err(|source| LaunchesError::Io {
            path: self.path.clone(),
            source,
        })?;
        self.saved = saved;
        self.schedule();
        Ok(())
    }

    fn schedule(&mut self) {
        self.due = (!self.saved.launches.is_empty()).then(|| Instant::now() + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(cgroup_id: u64) -> Launch {
        Launch {
            cgroup_id,
            path: format!("/agents.slice/agentguard-run-{cgroup_id}.scope"),
            identity: "sync".to_owned(),
            reason: Some("night \"run\"\n".to_owned()),
            user: 1_000,
            groups: vec![1_000],
            login_user: Some(1_000),
            pid: 7,
            comm: "sh".to_owned(),
        }
    }

    #[test]
    fn launches_outlive_the_daemon_and_end_with_the_boot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("launches.json");
        let mut launches = Launches::open(&path, "a").unwrap();
        assert_eq!(launches.due(), None);
        launches.add(launch(1)).unwrap();
        launches.add(launch(2)).unwrap();
        let mut launches = Launches::open(&path, "a").unwrap();
        assert!(launches.due().is_some());
        assert_eq!(launches.find(2), Some(&launch(2)));
        launches.clear(|launch| launch.cgroup_id == 1).unwrap();
        let reopened = Launches::open(&path, "a").unwrap();
        assert_eq!(reopened.iter().collect::<Vec<_>>(), [&launch(2)]);
        assert_eq!(Launches::open(&path, "b").unwrap().iter().count(), 0);
        launches.clear(|_| true).unwrap();
        assert_eq!(launches.due(), None);
    }

    #[test]
    fn what_cannot_be_written_is_not_added() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/launches.json");
        let mut launches = Launches::open(&path, "a").unwrap();
        launches.add(launch(1)).unwrap_err();
        assert_eq!(launches.iter().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_not_taken_for_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("launches.json");
        fs::write(&path, "{\"boot-id\":\"a\"").unwrap();
        Launches::open(&path, "a").unwrap_err();
    }
}
