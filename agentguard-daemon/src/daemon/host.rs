//! What the daemon and the offline commands need to know of the host.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    config::{self, Settings},
    identity::cgroups::{Hierarchy, mounts},
    policy::{Diagnostic, Diagnostics, HostFacts, Source, source::Place},
};

/// Reads the settings file at `path`. Without one, the default path stands for the defaults.
///
/// # Errors
///
/// What is wrong with it.
pub fn read_settings(path: &Path) -> Result<Settings, Diagnostics> {
    match fs::read_to_string(path) {
        Ok(text) => config::parse(path, &text),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && path == Path::new(config::DEFAULT_PATH) =>
        {
            Ok(Settings::default())
        }
        Err(error) => {
            let mut diagnostics = Diagnostics::default();
            diagnostics.push(
                Diagnostic::error(format!("the settings cannot be read: {error}"))
                    .at(Place::new(&Source::new(path, ""), 0..0))
                    .help("name a readable settings file with --config"),
            );
            Err(diagnostics)
        }
    }
}

/// The cgroup root of `settings`, or else the cgroup v2 mount; also where layouts are hybrid.
///
/// # Errors
///
/// If there is no cgroup v2 hierarchy.
pub fn cgroup_root(settings: &Settings) -> io::Result<PathBuf> {
    if let Some(path) = &settings.cgroup_root {
        return Ok(path.clone());
    }
    mounts(&mountinfo()?)
        .into_iter()
        .next()
        .map(|mount| mount.point)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 hierarchy is mounted"))
}

/// Where `cgroup_root` stands in its hierarchy.
///
/// # Errors
///
/// If /proc cannot be read.
pub fn hierarchy(cgroup_root: &Path) -> io::Result<Hierarchy> {
    /// Inode number of the first cgroup namespace (`PROC_CGROUP_INIT_INO`).
    const INITIAL_NAMESPACE: u64 = 0xEFFF_FFFB;
    let namespace = fs::metadata("/proc/self/ns/cgroup")?.ino();
    Ok(Hierarchy::new(
        &cgroup_root.canonicalize()?,
        &mountinfo()?,
        namespace != INITIAL_NAMESPACE,
    ))
}

fn mountinfo() -> io::Result<String> {
    fs::read_to_string("/proc/self/mountinfo")
}

/// Id of this boot.
///
/// # Errors
///
/// If /proc cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Name of the host.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What policy needs to know: the name servers of `/etc/resolv.conf`.
#[must_use]
pub fn facts() -> HostFacts {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    HostFacts {
        resolvers: parse_resolvers(&text),
    }
}

fn parse_resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            // An IPv6 address may name its interface.
            words.next()?.split('%').next()?.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text = "# x\nsearch a\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver x\n";
        let expected: Vec<IpAddr> = vec!["192.0.2.53".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(parse_resolvers(text), expected);
    }

    #[test]
    fn only_the_default_path_may_be_missing() {
        assert!(read_settings(Path::new("/nonexistent/agentguard.toml")).is_err());
    }
}
