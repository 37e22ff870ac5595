//! What is known of a cgroup besides its path.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// What is known of a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Its path below the cgroup root, with a leading slash.
    pub path: String,
    /// The unit of the system manager that it is the cgroup of.
    pub unit: Option<String>,
    /// The slices of the system manager that it is in, outermost first; itself, if it is one.
    pub slices: Vec<String>,
    /// The container that it belongs to.
    pub container: Option<Container>,
    /// The login session that it belongs to.
    pub session: Option<Session>,
    /// The identity that its unit claims in its own unit file.
    pub claim: Option<String>,
    /// Whether its unit is started by a timer.
    pub timer: bool,
    /// Whether it belongs to a daemon that runs scheduled jobs.
    pub cron: bool,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// What runs it.
    pub runtime: Runtime,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The name of its image.
    pub image: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd, also below Kubernetes.
    Containerd,
    /// CRI-O.
    CriO,
}

/// A login session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// Its class: `user`, `background`, `manager`, `greeter` and so on.
    pub class: Option<String>,
    /// Whose it is.
    pub user: Option<u32>,
}

impl Context {
    /// What the path alone tells.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            unit: system_unit(path).map(str::to_owned),
            slices: system_slices(path),
            ..Self::default()
        }
    }

    /// What the paths alone tell of the cgroup at `path` and those above it, from the root on.
    #[must_use]
    pub fn chain_of_path(path: &str) -> Vec<Self> {
        let above = path
            .match_indices('/')
            .filter_map(|(slash, _)| path.get(..slash))
            .map(|above| if above.is_empty() { "/" } else { above });
        above
            .chain((path != "/").then_some(path))
            .map(Self::of_path)
            .collect()
    }
}

const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// The unit of the system manager that the last component of `path` names.
///
/// Only slices may stand above it. Who was given a subtree, as the user managers and containers
/// are below their service or scope, can make cgroups of any name in it: those are no units of the
/// system, and must not take the identity of one.
fn system_unit(path: &str) -> Option<&str> {
    let (above, name) = path.rsplit_once('/')?;
    let in_slices = above
        .split('/')
        .filter(|component| !component.is_empty())
        .all(|component| component.ends_with(".slice"));
    // systemd puts an underscore before names that the kernel could take for its own files.
    let name = name.strip_prefix('_').unwrap_or(name);
    let is_unit = UNIT_SUFFIXES
        .iter()
        .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix));
    (in_slices && is_unit).then_some(name)
}

/// The slices at the start of `path`: below anything else they are no slices of the system.
fn system_slices(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|component| !component.is_empty())
        .take_while(|component| component.ends_with(".slice"))
        .map(str::to_owned)
        .collect()
}
