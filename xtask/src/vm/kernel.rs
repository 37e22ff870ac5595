//! Kernels of Debian, fetched without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{command, packages, workspace};

/// The kernels that are kept working besides the running one, oldest first.
pub(crate) const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Packages without content that depend on the newest kernel of a series.
const NEWEST: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];

/// The kernel of a cloud image: small, and all that a guest needs is built in but these.
const MODULES: [&str; 1] = ["drivers/net/veth.ko"];

/// A kernel that can be booted.
pub(crate) struct Kernel {
    /// What `uname -r` says there.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// Compressed or not, in the order in which they have to be loaded.
    pub(crate) modules: Vec<PathBuf>,
}

impl Kernel {
    /// The newest kernel of a series such as `6.1`, or the one that an earlier run fetched.
    pub(crate) fn fetch(series: &str) -> Result<Self> {
        let directory = workspace::target().join("vm").join(series);
        // The mark is written last: a run that was cut off is begun again.
        let complete = directory.join("complete");
        if !complete.exists() {
            workspace::clear(&directory)?;
            let package = packages::download(&directory, || newest(series))?;
            command::run(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .args([&package, &directory]),
            )?;
            fs::remove_file(&package)?;
            fs::write(&complete, [])?;
        }
        Self::below(&directory)
    }

    fn below(directory: &Path) -> Result<Self> {
        let (image, release) = fs::read_dir(directory.join("boot"))?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let release = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
                Some((path.clone(), release.to_owned()))
            })
            .next()
            .with_context(|| format!("no kernel in {}", directory.display()))?;
        let modules = directory.join("lib/modules").join(&release).join("kernel");
        let modules = MODULES.map(|module| {
            [module.to_owned(), format!("{module}.xz")]
                .map(|name| modules.join(name))
                .into_iter()
                .find(|path| path.exists())
                .with_context(|| format!("Linux {release} has no {module}"))
        });
        Ok(Self {
            release,
            image,
            modules: modules.into_iter().collect::<Result<_>>()?,
        })
    }
}

/// The package of the newest kernel of a series.
fn newest(series: &str) -> Result<String> {
    let depends = command::output(Command::new("apt-cache").arg("depends").args(NEWEST))?;
    let start = format!("linux-image-{series}.");
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with(&start))
        .map(str::to_owned)
        .with_context(|| {
            format!(
                "apt knows no cloud kernel of Linux {series}: add the suites of Debian 12 to its \
                 sources, bookworm-security included"
            )
        })
}
