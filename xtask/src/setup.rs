//! Installs what building and testing need and the host lacks.
//!
//! What is there is found by looking at files, so that a second run costs nothing.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    packages::{Missing, install, install_programs, knows_package},
    toolchain::{self, BPF_LINKER, Compiler},
};

/// Finds or installs the compiler of the kernel programs and its bpf-linker.
pub(crate) fn kernel_toolchain() -> Result<Compiler> {
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
        let purpose = "compiler of the kernel programs, with the source of `core`";
        install(
            &["rustc-web", "cargo-web", "rust-web-src"].map(|package| Missing {
                package: package.to_owned(),
                purpose,
            }),
        )?;
    }
    let compiler = toolchain::distribution()?.context(
        "the distribution's compiler has no usable LLVM: add Debian's security updates to the sources \
         of apt, which hold a newer one, or install a rustup nightly with rust-src",
    )?;
    install_linker(&compiler)?;
    Ok(compiler)
}

/// Installs what sets up the network namespaces of demo and tests.
pub(crate) fn namespace_tools() -> Result<()> {
    install_programs(&[(
        "ip",
        "iproute2",
        "sets up the networks of demo, bench and tests",
    )])
}

/// Installs what has the kernel fail a call of the history's writer.
pub(crate) fn fault_injector() -> Result<()> {
    install_programs(&[(
        "strace",
        "strace",
        "fails writes and syncs of the history, in tests of what it then keeps",
    )])
}

/// Installs what boots systemd in a container.
pub(crate) fn container_tools() -> Result<()> {
    install_programs(&[
        (
            "debootstrap",
            "debootstrap",
            "makes the root that systemd is booted from, for the tests that need it",
        ),
        (
            "unshare",
            "util-linux",
            "makes the namespaces that systemd is booted in",
        ),
        ("setpriv", "util-linux", "ends that systemd with its tests"),
        ("nsenter", "util-linux", "runs tests in those namespaces"),
    ])
}

/// Installs what tests count packets with, and the bench compares with.
pub(crate) fn packet_filter() -> Result<()> {
    install_programs(&[(
        "nft",
        "nftables",
        "counts packets in tests; what the bench compares agentguard with",
    )])
}

/// Installs what tests make containers with.
pub(crate) fn container_engine() -> Result<()> {
    install_programs(&[
        ("podman", "podman", "makes containers for tests"),
        ("crun", "crun", "runs podman's containers"),
    ])
}

/// Installs what tests of syslog and the journal are set up with.
pub(crate) fn stream_receiver_tools() -> Result<()> {
    install_programs(&[
        ("openssl", "openssl", "makes certificates for tests"),
        ("setpriv", "util-linux", "ends receivers with their tests"),
        (
            "unshare",
            "util-linux",
            "gives a journal directories of its own",
        ),
    ])
}

/// Installs what runs and fills virtual machines.
pub(crate) fn virtual_machine_tools() -> Result<()> {
    namespace_tools()?;
    install_programs(&[
        (
            "qemu-system-x86_64",
            "qemu-system-x86",
            "runs tests on older kernels",
        ),
        ("cpio", "cpio", "packs the initramfs of those kernels"),
    ])
}

/// Installs what `python3 -m venv` needs.
pub(crate) fn python_environments() -> Result<()> {
    let usable = Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .output()
        .is_ok_and(|output| output.status.success());
    if usable {
        return Ok(());
    }
    install(&[Missing {
        package: "python3-venv".to_owned(),
        purpose: "holds the published OCSF schemas and receivers of records, for tests",
    }])
}

/// `cargo fmt` and `cargo clippy` for the workspace.
pub(crate) struct Linters {
    /// The distribution's programs, where the cargo in use has none.
    distribution: bool,
}

impl Linters {
    /// A `cargo fmt` at the root.
    pub(crate) fn fmt(&self) -> Command {
        self.subcommand("fmt")
    }

    /// A `cargo clippy` at the root.
    pub(crate) fn clippy(&self) -> Command {
        self.subcommand("clippy")
    }

    /// A `cargo doc` at the root, of the compiler that clippy belongs to: what one has checked the
    /// other need not check again.
    pub(crate) fn doc(&self) -> Command {
        self.with("/usr/bin/cargo", "doc")
    }

    fn subcommand(&self, name: &str) -> Command {
        self.with(&format!("/usr/bin/cargo-{name}"), name)
    }

    /// The subcommand of the cargo in use, or this program of the distribution.
    fn with(&self, program: &str, name: &str) -> Command {
        if !self.distribution {
            return command::cargo([name]);
        }
        let mut command = Command::new(program);
        command
            .arg(name)
            .current_dir(crate::workspace::root())
            .env("CARGO", "/usr/bin/cargo")
            .env("RUSTC", "/usr/bin/rustc")
            .env("RUSTDOC", "/usr/bin/rustdoc")
            .env_remove("LD_LIBRARY_PATH");
        command
    }
}

/// Finds or installs the linters for the workspace.
pub(crate) fn linters() -> Result<Linters> {
    let has = |name| {
        command::cargo([name, "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if has("fmt") && has("clippy") {
        return Ok(Linters {
            distribution: false,
        });
    }
    install_programs(&[
        (
            "/usr/bin/rustc",
            "rustc-web",
            "compiler that clippy belongs to",
        ),
        (
            "/usr/bin/cargo",
            "cargo-web",
            "compiler that clippy belongs to",
        ),
        (
            "/usr/bin/cargo-fmt",
            "rustfmt-web",
            "cargo in use has no `cargo fmt`",
        ),
        (
            "/usr/bin/cargo-clippy",
            "rust-web-clippy",
            "cargo in use has no `cargo clippy`",
        ),
    ])?;
    Ok(Linters { distribution: true })
}

/// Finds or installs the clippy of the kernel compiler; returns its `cargo-clippy`.
pub(crate) fn kernel_linters(compiler: &Compiler) -> Result<PathBuf> {
    let clippy = compiler.cargo.with_file_name("cargo-clippy");
    if clippy.exists() {
        return Ok(clippy);
    }
    if !clippy.starts_with("/usr") {
        bail!(
            "{} is missing: add the rustup component clippy",
            clippy.display()
        );
    }
    install(&[Missing {
        package: "rust-web-clippy".to_owned(),
        purpose: "lints of the kernel programs",
    }])?;
    Ok(clippy)
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
        command::cargo([
            "install",
            "bpf-linker",
            "--quiet",
            "--locked",
            "--no-default-features",
        ])
        .args(["--version", BPF_LINKER, "--features", &feature, "--root"])
        .arg(root)
        .env("LLVM_PREFIX", compiler.llvm_prefix()),
    )
}

fn has_llvm(compiler: &Compiler) -> bool {
    compiler.llvm_prefix().join("bin/llvm-config").exists()
        && compiler.llvm_prefix().join("lib/libPolly.a").exists()
}
