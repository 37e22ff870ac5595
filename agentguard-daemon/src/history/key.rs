//! The key that signs checkpoints: made at the first start, replaced by the next one at each use.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::HistoryError;
use crate::audit::{
    Checkpoint, Signer,
    chain::{Position, from_hex, to_hex},
    checkpoint::PublicKey,
};

/// The keys of a history.
#[derive(Debug)]
pub(super) struct Keyring {
    directory: PathBuf,
    current: Signer,
}

/// File of the first public key of all, which everything can be checked from.
pub const FIRST_KEY: &str = "first-key.pub";

impl Keyring {
    /// Opens the one in `directory`, or makes it. `announced` is the key that the last checkpoint named.
    pub(super) fn open(
        directory: &Path,
        announced: Option<PublicKey>,
    ) -> Result<Self, HistoryError> {
        let (current, next) = (
            directory.join("audit.key"),
            directory.join("audit.key.next"),
        );
        let waiting = read(&next)?;
        if let Some(signer) = waiting
            && Some(signer.public_key()) == announced
        {
            // The checkpoint is on disk, and the daemon ended before it took its key.
            fs::rename(&next, &current)?;
        }
        let signer = match read(&current)? {
            Some(signer) => signer,
            None => make(&current)?,
        };
        let first = directory.join(FIRST_KEY);
        if announced.is_none() && !first.exists() {
            let text = format!("{}\n", to_hex(&signer.public_key()));
            crate::file::replace(&first, text.as_bytes())?;
        }
        if let Some(announced) = announced
            && signer.public_key() != announced
        {
            tracing::error!(
                "the audit key is not the one that the last checkpoint announced: was the history or the key replaced?"
            );
        }
        Ok(Self {
            directory: directory.to_owned(),
            current: signer,
        })
    }

    /// A checkpoint for `position`, and who signs after it; its key is on disk already.
    pub(super) fn sign(
        &self,
        position: Position,
        time_ms: i64,
    ) -> Result<(Checkpoint, Signer), HistoryError> {
        let next = make(&self.directory.join("audit.key.next"))?;
        let checkpoint = self.current.sign(position, time_ms, next.public_key());
        Ok((checkpoint, next))
    }

    /// Takes up the next key, once the checkpoint that names it is on disk, and destroys the last one.
    pub(super) fn advance(&mut self, next: Signer) -> Result<(), HistoryError> {
        self.current = next;
        fs::rename(
            self.directory.join("audit.key.next"),
            self.directory.join("audit.key"),
        )?;
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }
}

/// The public key that signs next, for who may read the secret one.
///
/// # Errors
///
/// If it cannot be read.
pub fn current_key(directory: &Path) -> Result<Option<PublicKey>, HistoryError> {
    Ok(read(&directory.join("audit.key"))?.map(|signer| signer.public_key()))
}

fn read(path: &Path) -> Result<Option<Signer>, HistoryError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let seed = from_hex(text.trim()).ok_or_else(|| HistoryError::Key {
        path: path.to_owned(),
        why: "it is no key".to_owned(),
    })?;
    Ok(Some(Signer::new(&seed)))
}

/// A new key, on disk.
fn make(path: &Path) -> Result<Signer, HistoryError> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    crate::file::replace(path, to_hex(&seed).as_bytes())?;
    Ok(Signer::new(&seed))
}
