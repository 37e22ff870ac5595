//! Builds the kernel programs, then the daemon that embeds them.

use std::{env::consts::ARCH, fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{command, setup, toolchain::Compiler, workspace};
use std::process::Command;

/// How to build.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Optimise the daemon; the kernel programs always are.
    #[arg(long)]
    release: bool,
}

/// Builds everything and returns the path of the `agentguard` binary.
pub(crate) fn run(options: &Options) -> Result<PathBuf> {
    kernel_programs(&setup::run()?)?;
    let mut cargo = command::cargo(["build", "--package", "agentguard-daemon"]);
    if options.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    let profile = if options.release { "release" } else { "debug" };
    Ok(workspace::target().join(profile).join("agentguard"))
}

/// Builds the kernel programs to where the daemon's build script looks for them.
pub(crate) fn kernel_programs(compiler: &Compiler) -> Result<()> {
    command::run(kernel_cargo(compiler, "build")?.arg("--release"))?;
    let built = kernel_target().join("bpfel-unknown-none/release/agentguard-ebpf");
    let object = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let embedded = workspace::kernel_object();
    // A newer file would have the daemon built again.
    if fs::read(&embedded).ok().as_deref() != Some(&object) {
        fs::write(&embedded, &object)
            .with_context(|| format!("cannot write {}", embedded.display()))?;
    }
    Ok(())
}

/// A cargo command on the kernel crate for its target.
pub(crate) fn kernel_cargo(compiler: &Compiler, subcommand: &str) -> Result<Command> {
    let rustflags = [
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        &format!("--cfg=bpf_target_arch=\"{ARCH}\""),
    ];
    let mut cargo = Command::new(&compiler.cargo);
    cargo
        .arg(subcommand)
        .args([
            "--target",
            "bpfel-unknown-none",
            "-Zbuild-std=core",
            "--target-dir",
        ])
        .arg(kernel_target())
        .current_dir(workspace::root().join("agentguard-ebpf"))
        .env("RUSTC", &compiler.rustc)
        // `-Z` on any channel: Debian's compiler is a stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", compiler.linker()?)
        // What the cargo that started xtask has set for its own toolchain.
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("RUSTUP_TOOLCHAIN");
    Ok(cargo)
}

fn kernel_target() -> PathBuf {
    workspace::target().join("bpf/build")
}
