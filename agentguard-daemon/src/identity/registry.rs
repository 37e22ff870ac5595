//! Names of identities to the numbers that the kernel knows them by.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use agentguard_common::{capacity::MAX_IDENTITIES, identity::AgentId};
use serde::{Deserialize, Serialize};

use crate::{file, policy::compiled::BUILT_IN};

/// Numbers of the built-in identities, in their order.
const BUILT_IN_IDS: [AgentId; BUILT_IN.len()] = [
    AgentId::UNKNOWN,
    AgentId::UNKNOWN_AGENT,
    AgentId::HUMAN,
    AgentId::CRON,
    AgentId::SERVICE,
];

/// Gives each name a number that it keeps until the host boots again.
///
/// Numbers are never given twice within a boot, also not by the next daemon: a socket that was
/// tagged long ago must not become somebody else's.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    saved: Saved,
    found: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Saved {
    boot_id: String,
    next: u32,
    ids: BTreeMap<String, u32>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file cannot be read or written.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is of this boot but does not hold a registry.
    #[error("{path} is damaged: {detail}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        detail: String,
    },
    /// Every number of this boot has been given.
    #[error("more than {MAX_IDENTITIES} names of identities since the host booted")]
    Full,
}

impl Registry {
    /// Opens the registry at `path` for the boot `boot_id`. What another boot left is not used.
    ///
    /// # Errors
    ///
    /// If the file is there and cannot be read, or is damaged: giving its numbers anew could make
    /// one identity out of two.
    pub fn open(path: &Path, boot_id: &str) -> Result<Self, RegistryError> {
        let fresh = || Saved {
            boot_id: boot_id.to_owned(),
            next: AgentId::FIRST_NAMED.0,
            ids: BTreeMap::new(),
        };
        let found = match fs::read(path) {
            Ok(bytes) => Some(decode(path, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed("read", path)(source)),
        };
        let found = found.filter(|saved| saved.boot_id == boot_id);
        Ok(Self {
            path: path.to_owned(),
            found: found.is_some(),
            saved: found.unwrap_or_else(fresh),
        })
    }

    /// Whether an earlier daemon of this boot left a registry.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        self.found
    }

    /// Numbers of the identities of a policy, in their order: the first ones are built in.
    /// New ones are on disk before this returns.
    ///
    /// # Errors
    ///
    /// If the numbers ran out, or the file cannot be written; then no new number is given.
    pub fn assign<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<AgentId>, RegistryError> {
        let mut next = self.saved.next;
        let mut new = BTreeMap::new();
        let mut ids = Vec::new();
        for (index, name) in names.enumerate() {
            if let Some(&id) = BUILT_IN_IDS.get(index) {
                ids.push(id);
                continue;
            }
            ids.push(match self.saved.ids.get(name) {
                Some(&id) => AgentId(id),
                None if next >= MAX_IDENTITIES => return Err(RegistryError::Full),
                None => {
                    new.insert(name.to_owned(), next);
                    next += 1;
                    AgentId(next - 1)
                }
            });
        }
        if !new.is_empty() || !self.found {
            let mut saved = Saved {
                boot_id: self.saved.boot_id.clone(),
                next,
                ids: self.saved.ids.clone(),
            };
            saved.ids.append(&mut new);
            write(&self.path, &saved)?;
            self.saved = saved;
            self.found = true;
        }
        Ok(ids)
    }

    /// Every number given in this boot with its name, the built-in ones included.
    pub fn ids(&self) -> impl Iterator<Item = (AgentId, &str)> {
        BUILT_IN_IDS.into_iter().zip(BUILT_IN).chain(
            self.saved
                .ids
                .iter()
                .map(|(name, &id)| (AgentId(id), name.as_str())),
        )
    }
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Saved, RegistryError> {
    let damaged = |detail: String| RegistryError::Damaged {
        path: path.to_owned(),
        detail,
    };
    let saved: Saved = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let mut seen = std::collections::BTreeSet::new();
    for (name, &id) in &saved.ids {
        if !(AgentId::FIRST_NAMED.0..saved.next).contains(&id) || !seen.insert(id) {
            return Err(damaged(format!(
                "identity {name:?} cannot have number {id}"
            )));
        }
    }
    Ok(saved)
}

fn write(path: &Path, saved: &Saved) -> Result<(), RegistryError> {
    let bytes = serde_json::to_vec(saved).map_err(|error| RegistryError::Damaged {
        path: path.to_owned(),
        detail: error.to_string(),
    })?;
    file::replace(path, &bytes).map_err(failed("write", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    move |source| RegistryError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
