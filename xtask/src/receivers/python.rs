//! Receivers that are written in Python, and what they are made of.

use std::{ffi::OsString, process::Command};

use anyhow::{Context as _, Result};

use crate::{command, setup, workspace};

/// What they import: Kafka brokers, gRPC, the messages of OpenTelemetry, certificates.
const PACKAGES: [&str; 5] = [
    "confluent-kafka==2.16.1",
    "grpcio==1.85.3",
    "opentelemetry-proto==1.45.2",
    "protobuf==7.36.2",
    "trustme==1.2.1",
];

/// Installs them, once, and returns the environment that tests find them by.
pub(crate) fn prepare() -> Result<Vec<(&'static str, OsString)>> {
    let receivers = workspace::target().join("receivers");
    let venv = receivers.join("venv");
    // The mark is written last: a run that was cut off is begun again. It holds what was installed.
    let complete = receivers.join("python-complete");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&complete).ok().as_ref() != Some(&wanted) {
        println!(
            "setup: installing what receivers import to {}",
            venv.display()
        );
        setup::python_environments()?;
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        command::run(
            Command::new(venv.join("bin/pip"))
                .args(["install", "--quiet"])
                .args(PACKAGES),
        )?;
        std::fs::write(&complete, wanted).context("cannot write to target/receivers")?;
    }
    Ok(vec![(
        "AGENTGUARD_RECEIVERS_PYTHON",
        venv.join("bin/python").into(),
    )])
}
