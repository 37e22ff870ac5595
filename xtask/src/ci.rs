//! Everything that must hold before a change goes in: style, lints, documentation, tests, also on
//! older kernels.

use std::process::Command;

use anyhow::Result;

use crate::{build, command, setup, test, toolchain::Compiler, vm, workspace};

/// Runs all checks, the quick ones first, up to the first that fails.
pub(crate) fn run() -> Result<()> {
    let compiler = setup::kernel_toolchain()?;
    let linters = setup::linters()?;
    let kernel_linters = setup::kernel_linters(&compiler)?;

    step("format");
    command::run(linters.fmt().args(["--all", "--check"]))?;
    command::run(
        linters
            .fmt()
            .arg("--check")
            .current_dir(workspace::kernel_crate()),
    )?;

    step("clippy");
    command::run(
        linters
            .clippy()
            .args(["--workspace", "--all-targets", "--", "-Dwarnings"]),
    )?;
    let mut clippy = Command::new(kernel_linters);
    clippy.arg("clippy");
    command::run(build::on_kernel_crate(&mut clippy, &compiler)?.args([
        "--release",
        "--",
        "-Dwarnings",
    ]))?;

    step("documentation");
    command::run(
        linters
            .doc()
            .args(["--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    kernel_documentation(&compiler)?;

    step("tests");
    test::run(&[])?;

    step("older kernels");
    vm::run(&[], &[])
}

fn kernel_documentation(compiler: &Compiler) -> Result<()> {
    let mut cargo = Command::new(&compiler.cargo);
    cargo.arg("doc");
    command::run(
        build::on_kernel_crate(&mut cargo, compiler)?
            .args(["--release", "--no-deps"])
            .env("RUSTDOC", compiler.rustc.with_file_name("rustdoc"))
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )
}

fn step(name: &str) {
    println!("ci: {name}");
}
