//! Where maps and links are pinned: `<bpffs>/v<ABI>/maps` and `<bpffs>/v<ABI>/links`.
//!
//! The ABI version is part of the path, so that maps of another layout are never adopted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agentguard_common::ABI_VERSION;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::statfs,
};

use super::{KernelError, link::PinnedLink};

/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;

/// The pins of this ABI version.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    bpffs: PathBuf,
}

impl Pins {
    /// Prepares `bpffs`: makes the directories, and mounts a bpffs if there is none, open to root
    /// alone.
    ///
    /// # Errors
    ///
    /// If a directory cannot be made or the file system not mounted.
    pub(super) fn prepare(bpffs: &Path) -> Result<Self, KernelError> {
        fs::create_dir_all(bpffs).map_err(at(bpffs))?;
        if !is_bpffs(bpffs)? {
            mount(
                Some("bpffs"),
                bpffs,
                Some("bpf"),
                MsFlags::empty(),
                Some("mode=0700"),
            )
            .map_err(io::Error::from)
            .map_err(at(bpffs))?;
        }
        let pins = Self {
            bpffs: bpffs.into(),
        };
        for directory in [pins.maps(), pins.links()] {
            fs::create_dir_all(&directory).map_err(at(&directory))?;
        }
        Ok(pins)
    }

    /// Where the map `name` is pinned.
    #[must_use]
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where the link of program `name` is pinned.
    #[must_use]
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Removes the pins of other ABI versions, once this one enforces.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub(super) fn remove_other_versions(&self) -> Result<(), KernelError> {
        for entry in fs::read_dir(&self.bpffs).map_err(at(&self.bpffs))? {
            let path = entry.map_err(at(&self.bpffs))?.path();
            if path != self.version() && is_version(&path) {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// Ends every link and removes every pin below `bpffs`, of any version. Returns the links removed.
    ///
    /// # Errors
    ///
    /// If one cannot be detached or removed.
    pub(super) fn remove_all(bpffs: &Path) -> Result<Vec<PathBuf>, KernelError> {
        let mut removed = Vec::new();
        if !bpffs.exists() || !is_bpffs(bpffs)? {
            return Ok(removed);
        }
        for entry in fs::read_dir(bpffs).map_err(at(bpffs))? {
            let version = entry.map_err(at(bpffs))?.path();
            if !is_version(&version) {
                continue;
            }
            let links = version.join("links");
            if let Ok(entries) = fs::read_dir(&links) {
                for path in entries.flatten().map(|link| link.path()) {
                    if let Some(link) = PinnedLink::open(&path).map_err(at(&path))? {
                        link.detach().map_err(at(&path))?;
                    }
                    removed.push(path);
                }
            }
            fs::remove_dir_all(&version).map_err(at(&version))?;
        }
        removed.sort();
        Ok(removed)
    }

    fn version(&self) -> PathBuf {
        self.bpffs.join(format!("v{ABI_VERSION}"))
    }

    fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    fn links(&self) -> PathBuf {
        self.version().join("links")
    }
}

fn is_bpffs(path: &Path) -> Result<bool, KernelError> {
    let statistics = statfs(path).map_err(io::Error::from).map_err(at(path))?;
    Ok(statistics.filesystem_type().0 == BPF_FS_MAGIC)
}

fn is_version(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix('v'))
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_path_buf();
    move |source| KernelError::File { path, source }
}
