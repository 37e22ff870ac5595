//! Builds the kernel programs, then the daemon that embeds them.

use std::{env::consts::ARCH, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{command, setup, toolchain::Compiler, workspace};

/// How to build.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Optimise the daemon; the kernel programs always are.
    #[arg(long)]
    pub(crate) release: bool,
}

/// Builds everything and returns the path of the `agentguard` binary.
pub(crate) fn run(options: &Options) -> Result<PathBuf> {
    kernel_programs(&setup::kernel_toolchain()?)?;
    let mut cargo = command::cargo(["build", "--package", "agentguard-daemon"]);
    if options.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    let profile = if options.release { "release" } else { "debug" };
    Ok(workspace::target().join(profile).join("agentguard"))
}

/// Builds one of a package's programs of tests, and what the package has of other programs.
pub(crate) fn test_program(package: &str, name: &str) -> Result<PathBuf> {
    let messages = command::output(&mut command::cargo([
        "test",
        "--package",
        package,
        "--test",
        name,
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]))?;
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let is_it = target["name"] == name && target["kind"][0] == "test";
        is_it.then(|| Some(PathBuf::from(message["executable"].as_str()?)))?
    });
    program.with_context(|| format!("cargo built no tests {name} of {package}"))
}

/// Builds the kernel programs to where the daemon's build script looks for them.
pub(crate) fn kernel_programs(compiler: &Compiler) -> Result<()> {
    let mut cargo = Command::new(&compiler.cargo);
    cargo.arg("build");
    command::run(on_kernel_crate(&mut cargo, compiler)?.arg("--release"))?;
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

/// Makes a cargo command work on the kernel crate, for its target and with its compiler.
pub(crate) fn on_kernel_crate<'a>(
    cargo: &'a mut Command,
    compiler: &Compiler,
) -> Result<&'a mut Command> {
    let rustflags = [
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Without it LLVM calls functions that set and copy small pieces of memory byte by byte.
        "-Clink-arg=--disable-expand-memcpy-in-order",
        &format!("--cfg=bpf_target_arch=\"{ARCH}\""),
    ];
    Ok(cargo
        .args([
            "--locked",
            "--target",
            "bpfel-unknown-none",
            "-Zbuild-std=core",
            "--target-dir",
        ])
        .arg(kernel_target())
        .current_dir(workspace::kernel_crate())
        .env("CARGO", &compiler.cargo)
        .env("RUSTC", &compiler.rustc)
        // `-Z` on any channel: Debian's compiler is a stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", compiler.linker()?)
        // What the cargo that started xtask has set for its own toolchain.
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("RUSTUP_TOOLCHAIN"))
}

fn kernel_target() -> PathBuf {
    workspace::target().join("bpf/build")
}
