//! Rotation of a file: the old one gets the time as its name and is compressed, the oldest go.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::Deserialize;

use crate::size::Size;

/// The `rotate` table of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rotation {
    /// When it is at least this large.
    pub size: Size,
    /// When it is at least this old, in hours.
    pub hours: u32,
    /// How many old ones stay.
    pub keep: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            size: Size(100 << 20),
            hours: 24,
            keep: 14,
        }
    }
}

/// Whether the file at `path` is to be rotated. Before something is written: so that none is empty.
pub(super) fn is_due(rotation: &Rotation, path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else {
        return false;
    };
    let age = metadata
        .created()
        .ok()
        .and_then(|created| SystemTime::now().duration_since(created).ok());
    let hours = Duration::from_secs(u64::from(rotation.hours) * 3_600);
    metadata.len() > 0 && (metadata.len() >= rotation.size.0 || age.is_some_and(|age| age >= hours))
}

/// Moves the file at `path` away, compresses it, and removes those that are too many.
pub(super) fn rotate(rotation: &Rotation, path: &Path) -> io::Result<()> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
    let old = with_suffix(path, &time.to_string());
    fs::rename(path, &old)?;
    let packed = with_suffix(&old, "zst");
    // A crash leaves what is not whole under a name that is overwritten next time.
    let staged = with_suffix(path, "zst.new");
    let target = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&staged)?;
    zstd::stream::copy_encode(File::open(&old)?, &target, 3)?;
    target.sync_all()?;
    fs::rename(&staged, &packed)?;
    fs::remove_file(&old)?;
    remove_oldest(path, rotation.keep)
}

fn remove_oldest(path: &Path, keep: u32) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut old = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let time = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(".zst"));
        // 20260131T235959.123Z
        if time.is_some_and(|time| time.len() == 20 && time.ends_with('Z')) {
            old.push(entry.path());
        }
    }
    // Their names sort as the times in them.
    old.sort();
    let surplus = old.len().saturating_sub(keep as usize);
    old.iter().take(surplus).try_for_each(fs::remove_file)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
