//! Installs what building and testing need and the host lacks.
//!
//! What is there is found by looking at files, so that a second run costs nothing.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::{
    command,
    toolchain::{self, BPF_LINKER, Compiler},
};

/// A Debian package that is missing, and what it is for.
struct Missing {
    package: String,
    purpose: &'static str,
}

/// Finds or installs the compiler of the kernel programs and its bpf-linker.
pub(crate) fn run() -> Result<Compiler> {
    for nightly in toolchain::rustup_nightlies()? {
        let linkable = nightly.linker()?.exists()
            || has_llvm(&nightly)
            || knows_package(&format!("llvm-{}-dev", nightly.llvm));
        if linkable {
            install_linker(&nightly)?;
            return Ok(nightly);
        }
        println!(
            "setup: not using {}: no package of LLVM {} to build bpf-linker with",
            nightly.rustc.display(),
            nightly.llvm
        );
    }
    if toolchain::distribution()?.is_none() {
        let purpose = "compiler for the kernel programs, with the source of `core`";
        install(
            &["rustc-web", "cargo-web", "rust-web-src"].map(|package| Missing {
                package: package.to_owned(),
                purpose,
            }),
        )?;
    }
    let compiler = toolchain::distribution()?.context(
        "the distribution's compiler has no usable LLVM: install a rustup nightly with rust-src",
    )?;
    install_linker(&compiler)?;
    Ok(compiler)
}

/// Builds bpf-linker with the LLVM of the compiler, unless an earlier run did.
fn install_linker(compiler: &Compiler) -> Result<()> {
    let linker = compiler.linker()?;
    if linker.exists() {
        return Ok(());
    }
    let llvm = compiler.llvm;
    if !has_llvm(compiler) {
        let purpose = "LLVM of that compiler, to build bpf-linker with";
        install(&["llvm-{}-dev", "libpolly-{}-dev"].map(|package| Missing {
            package: package.replace("{}", &llvm.to_string()),
            purpose,
        }))?;
    }
    let root = linker
        .ancestors()
        .nth(2)
        .context("bpf-linker has no root")?;
    println!(
        "setup: building bpf-linker {BPF_LINKER} with LLVM {llvm} into {} (about a minute, once)",
        root.display()
    );
    let feature = format!("llvm-{llvm}");
    command::run(
        command::cargo(["install", "bpf-linker", "--locked", "--no-default-features"])
            .args(["--version", BPF_LINKER, "--features", &feature, "--root"])
            .arg(root)
            .env("LLVM_PREFIX", compiler.llvm_prefix()),
    )
}

fn has_llvm(compiler: &Compiler) -> bool {
    compiler.llvm_prefix().join("bin/llvm-config").exists()
        && compiler.llvm_prefix().join("lib/libPolly.a").exists()
}

/// Whether apt can install a package as things stand.
fn knows_package(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--quiet", "--no-all-versions", package])
        .output()
        .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// Installs Debian packages, or says which are missing where it can't.
fn install(missing: &[Missing]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|it| it.package.as_str()).collect();
    let list: Vec<String> = missing
        .iter()
        .map(|it| format!("  {} ({})", it.package, it.purpose))
        .collect();
    let list = list.join("\n");
    if !Path::new("/etc/debian_version").exists() || command::find("apt-get").is_none() {
        bail!("this is no Debian: install what these packages hold there, then try again:\n{list}");
    }
    if !Uid::effective().is_root() {
        bail!("packages are missing and only root can install them:\n{list}");
    }
    println!("setup: installing packages of Debian:\n{list}");
    if !packages.iter().all(|package| knows_package(package)) {
        println!("setup: fetching the lists of packages (apt-get update)");
        command::run(apt_get().arg("update"))?;
    }
    command::run(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&packages),
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "--option", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}
