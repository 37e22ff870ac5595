//! The root directory that systemd is booted from.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::mirror;
use crate::{command, workspace};

/// Fetches a minimal Debian with systemd, once, and returns its root directory.
pub(crate) fn stage() -> Result<PathBuf> {
    let directory = workspace::target().join("booted");
    let root = directory.join("root");
    // The mark is written last: a run that was cut off is begun again.
    let complete = directory.join("complete");
    if !complete.exists() {
        let mirror = mirror::find()?;
        println!(
            "setup: fetching Debian with systemd into {} (250 MB, one to two minutes, once)",
            root.display()
        );
        workspace::clear(&root)?;
        // What it mounts in the new root must not outlive it: the directory may be cleared again.
        command::run(
            Command::new("unshare")
                .args(["--mount", "--propagation=private", "debootstrap"])
                .args(["--variant=minbase", "--include=systemd,dbus"])
                .arg(mirror::SUITE)
                .arg(&root)
                .arg(mirror),
        )?;
        fs::write(&complete, []).context("cannot write to target/booted")?;
    }
    Ok(root)
}
