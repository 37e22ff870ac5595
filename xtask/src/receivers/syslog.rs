//! rsyslog and syslog-ng, which could not both be installed: fetched, and run from where they are.

use std::{ffi::OsString, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{command, packages, setup, workspace};

/// What is fetched, with all that it needs and this host lacks; what stands in one row can be installed
/// together.
const PACKAGES: [&[&str]; 2] = [
    &["rsyslog", "rsyslog-relp", "rsyslog-openssl"],
    &["syslog-ng-core"],
];

/// Where the journal is, on a host that has one.
const JOURNALD: &str = "/lib/systemd/systemd-journald";

/// Fetches the receivers, once, and returns the variables by which tests find them.
pub(crate) fn prepare() -> Result<Vec<(&'static str, OsString)>> {
    setup::stream_receiver_tools()?;
    let directory = workspace::target().join("receivers/stream");
    let root = directory.join("root");
    // The mark is written last: a run that was cut off is begun again.
    let complete = directory.join("complete");
    if !complete.exists() {
        println!(
            "setup: fetching rsyslog and syslog-ng into {}",
            root.display()
        );
        workspace::clear(&root)?;
        let archives = directory.join("archives");
        workspace::clear(&archives)?;
        for packages in PACKAGES {
            packages::download_with_dependencies(&archives, packages)?;
        }
        if !Path::new(JOURNALD).exists() {
            packages::download_with_dependencies(&archives, &["systemd"])?;
        }
        for archive in fs::read_dir(&archives)? {
            let archive = archive?.path();
            if archive
                .extension()
                .is_some_and(|extension| extension == "deb")
            {
                command::run(
                    Command::new("dpkg-deb")
                        .arg("--extract")
                        .arg(archive)
                        .arg(&root),
                )?;
            }
        }
        fs::write(&complete, []).context("cannot write to target/receivers")?;
    }
    Ok(vec![("AGENTGUARD_STREAM_RECEIVERS", root.into())])
}
