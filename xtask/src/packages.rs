//! Packages of Debian: asked after, installed, fetched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::command;

/// A Debian package that is missing, and what it is for.
pub(crate) struct Missing {
    pub(crate) package: String,
    pub(crate) purpose: &'static str,
}

/// Fetches a package into an empty directory without installing it, and returns its file. `name`
/// tells which, once the lists of packages are fresh.
pub(crate) fn download(directory: &Path, name: impl FnOnce() -> Result<String>) -> Result<PathBuf> {
    update_package_lists()?;
    let package = name()?;
    println!("setup: fetching {package}, which is not installed");
    command::run(
        apt_get()
            // As root, apt would give up its rights, and then may not write there.
            .args(["--option", "APT::Sandbox::User=root", "download", &package])
            .current_dir(directory),
    )?;
    let mut files = fs::read_dir(directory)?;
    let file = files.next().context("apt-get fetched nothing")??;
    Ok(file.path())
}

/// Fetches packages, and those that they need and that are not installed, into a directory, without
/// installing any.
pub(crate) fn download_with_dependencies(directory: &Path, packages: &[&str]) -> Result<()> {
    update_package_lists()?;
    fs::create_dir_all(directory.join("partial"))?;
    let mut archives = std::ffi::OsString::from("Dir::Cache::archives=");
    archives.push(directory);
    command::run(
        apt_get()
            .args(["--option", "APT::Sandbox::User=root", "--option"])
            .arg(archives)
            // One that is installed is fetched, too.
            .args(["install", "--yes", "--download-only", "--reinstall"])
            .arg("--no-install-recommends")
            .args(packages),
    )
}

/// Whether apt can install a package as things stand.
pub(crate) fn knows_package(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--quiet", "--no-all-versions", package])
        .output()
        .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// Installs the packages of programs that are not there: (program, package, purpose).
pub(crate) fn install_programs(programs: &[(&str, &str, &'static str)]) -> Result<()> {
    let missing: Vec<Missing> = programs
        .iter()
        .filter(|(program, ..)| command::find(program).is_none())
        .map(|&(_, package, purpose)| Missing {
            package: package.to_owned(),
            purpose,
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Installs Debian packages, or says which are missing where it can't.
pub(crate) fn install(missing: &[Missing]) -> Result<()> {
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
    update_package_lists()?;
    command::run(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&packages),
    )
}

/// Fetches the lists of packages, once a run. Those of a new machine may be absent, or so old that they
/// offer compilers which bpf-linker cannot be built for.
fn update_package_lists() -> Result<()> {
    static UPDATED: AtomicBool = AtomicBool::new(false);
    if UPDATED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    println!("setup: fetching the lists of packages (apt-get update)");
    command::run(apt_get().arg("update"))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "--option", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}
