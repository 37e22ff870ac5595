//! Where things are in this workspace.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("/"))
}

/// The target directory, which cargo lets the environment move.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The built kernel programs; the build script of the daemon embeds this file.
pub(crate) fn kernel_object() -> PathBuf {
    target().join("bpf/agentguard")
}
