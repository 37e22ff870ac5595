//! What the daemon and the offline commands need to know of the host.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group, User};

use crate::{
    config::{self, Settings},
    identity::cgroups::{Hierarchy, mounts},
    policy::{Diagnostic, Diagnostics, HostFacts, Policy, Source, source::Place},
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

/// What `policy` needs to know: the name servers of `/etc/resolv.conf`, and the users and groups that
/// it names. These are asked of the host's name service one by one, since a directory may have more
/// than it lists.
#[must_use]
pub fn facts(policy: &Policy) -> HostFacts {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut facts = HostFacts {
        resolvers: parse_resolvers(&text),
        ..HostFacts::default()
    };
    let (users, groups) = policy.account_names();
    for name in users {
        if let Some(user) = found(User::from_name(name), "user", name) {
            facts.users.insert(name.to_owned(), user.uid.as_raw());
        }
    }
    for name in groups {
        if let Some(group) = found(Group::from_name(name), "group", name) {
            facts.groups.insert(name.to_owned(), group.gid.as_raw());
            learn_members(&mut facts, &group);
        }
    }
    for number in policy.group_numbers() {
        let group = Group::from_gid(Gid::from_raw(number));
        if let Some(group) = found(group, "group", &number.to_string()) {
            learn_members(&mut facts, &group);
        }
    }
    facts
}

fn learn_members(facts: &mut HostFacts, group: &Group) {
    for name in &group.mem {
        if let Some(user) = found(User::from_name(name), "user", name) {
            let members = facts.members.entry(group.gid.as_raw()).or_default();
            members.insert(user.uid.as_raw());
            let primary = user.gid.as_raw();
            facts.primary_groups.insert(user.uid.as_raw(), primary);
        }
    }
}

/// What the name service answered. That it could not answer is not known to the policy: it says that
/// there is no such name.
fn found<T>(answer: nix::Result<Option<T>>, noun: &str, name: &str) -> Option<T> {
    answer.unwrap_or_else(|error| {
        tracing::warn!(%error, name, "the name service cannot look up a {noun}");
        None
    })
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
    fn accounts_are_asked_of_the_host() {
        let text = "[identities.a]\nclass = \"ci\"\n[[identities.a.match]]\n\
                    user = \"root\"\ngroup = [\"root\", \"no-such-group\"]\n";
        let sources = crate::policy::Sources::from_files(vec![Source::new("a.toml", text)]);
        let facts = facts(&crate::policy::load(&sources).unwrap());
        assert_eq!(facts.users.get("root"), Some(&0));
        assert_eq!(facts.groups.get("root"), Some(&0));
        assert_eq!(facts.groups.len(), 1);
    }

    #[test]
    fn only_the_default_path_may_be_missing() {
        assert!(read_settings(Path::new("/nonexistent/agentguard.toml")).is_err());
    }
}
