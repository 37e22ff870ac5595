//! The compiler and the linker of the kernel programs.
//!
//! `core` has to be built from source for the BPF target, so the compiler needs its library source,
//! and bpf-linker has to read the bitcode that the compiler writes, so both need the same LLVM.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::command;

/// The version of bpf-linker that is built.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// Major versions of LLVM that this bpf-linker can be built with.
const LLVM_VERSIONS: [u32; 3] = [21, 22, 23];

/// A compiler with the source of its library.
#[derive(Debug)]
pub(crate) struct Compiler {
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    /// The major version of its LLVM.
    pub(crate) llvm: u32,
}

impl Compiler {
    /// The compiler below a prefix such as `/usr`, if it is whole and of a usable LLVM.
    fn below(prefix: &Path) -> Result<Option<Self>> {
        let (cargo, rustc) = (prefix.join("bin/cargo"), prefix.join("bin/rustc"));
        let library = prefix.join("lib/rustlib/src/rust/library");
        if !(cargo.exists() && rustc.exists() && library.exists()) {
            return Ok(None);
        }
        let version = command::output(Command::new(&rustc).arg("-vV"))?;
        let llvm = version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .and_then(|version| version.split('.').next())
            .and_then(|major| major.parse().ok())
            .with_context(|| format!("no LLVM version in `{} -vV`", rustc.display()))?;
        Ok(LLVM_VERSIONS
            .contains(&llvm)
            .then_some(Self { cargo, rustc, llvm }))
    }

    /// Where bpf-linker for this compiler is kept between runs and between clones.
    pub(crate) fn linker(&self) -> Result<PathBuf> {
        let name = format!("bpf-linker-{BPF_LINKER}-llvm-{}", self.llvm);
        Ok(cache()?.join(name).join("bin/bpf-linker"))
    }

    /// Where the LLVM of this compiler is installed, if it is.
    pub(crate) fn llvm_prefix(&self) -> PathBuf {
        PathBuf::from(format!("/usr/lib/llvm-{}", self.llvm))
    }
}

/// Every nightly of rustup that has the `rust-src` component, the undated one first.
pub(crate) fn rustup_nightlies() -> Result<Vec<Compiler>> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".rustup")));
    let Some(Ok(entries)) = home.map(|home| fs::read_dir(home.join("toolchains"))) else {
        return Ok(Vec::new());
    };
    let mut prefixes = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    prefixes.retain(|prefix| {
        let name = prefix.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("nightly")
    });
    // `nightly-x86_64-…` sorts after `nightly-2026-…`.
    prefixes.sort_unstable();
    prefixes
        .iter()
        .rev()
        .filter_map(|prefix| Compiler::below(prefix).transpose())
        .collect()
}

/// The compiler of the distribution, if it is installed with its library source.
pub(crate) fn distribution() -> Result<Option<Compiler>> {
    Compiler::below(Path::new("/usr"))
}

fn cache() -> Result<PathBuf> {
    env::var_os("AGENTGUARD_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("XDG_CACHE_HOME")?).join("agentguard")))
        .or_else(|| Some(env::home_dir()?.join(".cache/agentguard")))
        .context("no home directory: set AGENTGUARD_CACHE to a directory for the kernel toolchain")
}
