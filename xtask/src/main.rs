//! Set-up, build, demo, test and bench of agentguard.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a build tool talks to its terminal"
)]

mod bench;
mod booted;
mod build;
mod ci;
mod command;
mod daemon;
mod demo;
mod interrupt;
mod packages;
mod receivers;
mod sandbox;
mod setup;
mod tally;
mod test;
#[cfg(test)]
mod tidy;
mod toolchain;
mod vm;
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
    /// Run every test, those on the running kernel included. Needs root.
    Test {
        /// Passed on to the end-to-end tests, such as a part of a name.
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Run the end-to-end tests on older kernels, in virtual machines.
    Vm {
        /// A series such as 6.1, instead of all that are kept working.
        #[arg(long = "kernel", value_name = "SERIES")]
        kernels: Vec<String>,
        /// Passed on to the tests, such as a part of a name.
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// What a virtual machine starts with.
    #[command(hide = true)]
    Guest {
        /// Passed on to the tests.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filter: Vec<String>,
    },
    /// What a container with systemd starts with.
    #[command(hide = true)]
    Boot(booted::init::Parts),
    /// Show agentguard at work on this host. Needs root; leaves nothing behind but its events.
    Demo,
    /// Measure what agentguard costs against nothing, no-op hooks and nftables. Needs root.
    Bench(bench::Options),
    /// The one that is measured.
    #[command(hide = true)]
    BenchWorker(bench::worker::Role),
    /// A program of the demo.
    #[command(hide = true)]
    Play(demo::program::Role),
    /// Check style, lints and documentation, then run every test: what CI runs.
    Ci,
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Setup => setup::kernel_toolchain().map(drop),
        Task::Build(options) => build::run(&options).map(drop),
        Task::Test { filter } => test::run(&filter),
        Task::Vm { kernels, filter } => vm::run(&kernels, &filter),
        Task::Guest { filter } => match vm::guest::run(&filter)? {},
        Task::Boot(parts) => match booted::init::run(&parts)? {},
        Task::Demo => demo::run(),
        Task::Bench(options) => bench::run(&options),
        Task::BenchWorker(role) => bench::worker::work(&role),
        Task::Play(role) => demo::program::play(&role),
        Task::Ci => ci::run(),
    }
}
