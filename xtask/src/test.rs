//! Runs every test there is, those on the running kernel included, and adds up what happened.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::{booted, build, command, receivers, setup, tally::Tally, vm, workspace};

/// The package that holds the OCSF schemas, and the validator that it needs to be imported.
const SCHEMA_PACKAGES: [&str; 2] = ["ocsf-json-schema==1.2.0", "jsonschema"];

/// End-to-end tests that ask for all that the machine can do, or begin so: each has it for itself.
/// Beside others they might offer too little to press on a limit.
const ALONE: [&str; 2] = ["limits::rate::", "history::a_flood_"];

/// Runs all tests; `filter` goes to the end-to-end tests.
pub(crate) fn run(filter: &[String]) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("the end-to-end tests need root (those that don't: `cargo test`)");
    }
    setup::namespace_tools()?;
    setup::packet_filter()?;
    setup::container_engine()?;
    let agentguard = build::run(&build::Options::default())?;
    // What it needs of the machine is asserted of the daemon that people run.
    let optimised = build::run(&build::Options { release: true })?;
    let schemas = export_schemas()?;
    let stream_receivers = receivers::syslog::prepare()?;
    let python = receivers::python::prepare()?;

    let mut tally = Tally::default();
    tally.run(&mut command::cargo(["test", "--no-fail-fast"]))?;
    tally.run(
        command::cargo(["test", "--package", "agentguard-daemon", "--test", "ocsf"])
            .args(["--", "--ignored"])
            .env("AGENTGUARD_OCSF_SCHEMAS", schemas),
    )?;
    setup::fault_injector()?;
    tally.run(
        command::cargo(["test", "--package", "agentguard-daemon"]).args([
            "--test",
            "history_faults",
            "--",
            "--ignored",
        ]),
    )?;
    tally.run(
        command::cargo(["test", "--package", "agentguard-daemon"])
            .args(["--test", "stream_receivers", "--", "--ignored"])
            .envs(stream_receivers),
    )?;
    tally.run(
        command::cargo([
            "test",
            "--package",
            "agentguard-daemon",
            "--test",
            "http_receivers",
        ])
        .args(["--", "--ignored"])
        .envs(python),
    )?;
    booted::test(&mut tally)?;
    println!(
        "test: {}* run in `cargo xtask vm` and nowhere else",
        vm::ONLY_THERE
    );
    let mut end_to_end = |arguments: &[&str]| {
        tally.run(
            command::cargo([
                "test",
                "--package",
                "agentguard-tests",
                "--no-fail-fast",
                "--",
            ])
            // They set the clock.
            .args(["--skip", vm::ONLY_THERE])
            .args(arguments)
            .args(filter)
            .env("AGENTGUARD_BIN", &agentguard)
            .env("AGENTGUARD_RELEASE_BIN", &optimised),
        )
    };
    if filter.is_empty() {
        end_to_end(&[&["--test-threads=1"], &ALONE[..]].concat())?;
        end_to_end(&ALONE.map(|name| ["--skip", name]).concat())?;
    } else {
        end_to_end(&[])?;
    }
    tally.conclude()
}

/// Exports the published OCSF schemas, once, and returns the directory that holds them.
fn export_schemas() -> Result<PathBuf> {
    let ocsf = workspace::target().join("ocsf");
    let schemas = ocsf.join("schemas");
    let script = workspace::root().join("agentguard-daemon/tests/export_ocsf_schemas.py");
    let wanted = std::fs::read(&script).context("cannot read the script that exports schemas")?;
    // The mark is written last: a run that was cut off is begun again. It holds what was run.
    let complete = ocsf.join("complete");
    if std::fs::read(&complete).ok().as_ref() != Some(&wanted) {
        println!("setup: exporting the OCSF schemas to {}", schemas.display());
        setup::python_environments()?;
        let venv = ocsf.join("venv");
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        command::run(
            Command::new(venv.join("bin/pip"))
                .args(["install", "--quiet"])
                .args(SCHEMA_PACKAGES),
        )?;
        command::run(
            Command::new(venv.join("bin/python"))
                .arg(script)
                .arg(&schemas),
        )?;
        std::fs::write(&complete, wanted).context("cannot write to target/ocsf")?;
    }
    Ok(schemas)
}
