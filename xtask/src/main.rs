//! Set-up, build, demo, test and bench of agentguard.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a build tool talks to its terminal"
)]

mod build;
mod command;
mod setup;
mod toolchain;
mod workspace;

use clap::Parser;

/// Set-up, build, demo, test and bench of agentguard.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Install what building needs and is not there yet.
    Setup,
    /// Build the kernel programs and the daemon that embeds them.
    Build(build::Options),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Setup => setup::run().map(drop),
        Task::Build(options) => build::run(&options).map(drop),
    }
}
