//! Where things are in this workspace.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("/"))
}

/// The crate of the kernel programs, a workspace of its own.
pub(crate) fn kernel_crate() -> PathBuf {
    root().join("agentguard-ebpf")
}

/// The target directory, which cargo lets the environment move.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The built kernel programs; the build script of the daemon embeds this file.
pub(crate) fn kernel_object() -> PathBuf {
    target().join("bpf/agentguard")
}

/// Makes a directory, or empties it.
pub(crate) fn clear(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot clear {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}
