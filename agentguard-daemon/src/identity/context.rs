//! What is known of a cgroup besides its path: its unit, its container, its session, who made it.
//!
//! Some of that is in the path and is known at once, [`Context::of_path`]. The rest, only others
//! know, and [`resolver::Resolver`] asks them.
//!
//! # What a path proves
//!
//! Who may make cgroups in a subtree chooses the names there, so a name proves something only where
//! nobody but root, systemd for it, or a container engine of root makes cgroups:
//!
//! - A **unit** of the system manager has nothing but slices above it. The user managers and
//!   containers have subtrees below their service or scope, and can make any name in them.
//! - A **session** is `/user.slice/user-UID.slice/session-ID.scope` and nothing else.
//! - A **container** has nothing above it that is a service, a scope or another container.
//! - A container in `/user.slice/user-UID.slice` is one that the user UID says is a container. It has
//!   [`Container::rootless_of`], and means no more than "a process of that user": such a user can
//!   give a cgroup of any processes of his any container's name. A selector of containers of the
//!   system must not match it; [`Container::is_of_system`] tells.
//!
//! A subtree can be handed over by changing the owner of a plain directory too, which no path shows:
//! the resolver, which sees directories, believes none of this below one that is not root's.
#![forbid(unsafe_code)]

mod container;
mod engine;
mod ownership;
pub mod resolver;
mod session;
mod systemd;

use std::collections::BTreeMap;

/// What is known of a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Its path below the cgroup root, with a leading slash.
    pub path: String,
    /// The unit of the system manager that this very cgroup is of, without escapes. A slice is its
    /// own unit.
    pub unit: Option<String>,
    /// The slices that it is in, outermost first; a slice is in itself.
    pub slices: Vec<String>,
    /// The container that this very cgroup is of.
    pub container: Option<Container>,
    /// The session or user manager that this very cgroup is of.
    pub session: Option<Session>,
    /// Identity that the unit claims by `LogExtraFields=AGENTGUARD_IDENTITY=…`, in files of root.
    pub claim: Option<String>,
    /// Whether a timer starts the unit.
    pub timer: bool,
    /// Whether cron or anacron starts what is in it.
    pub cron: bool,
    /// What tells this start of the unit from others: its invocation id.
    pub run_id: Option<String>,
}

/// A container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// Docker, or what speaks its API.
    Docker,
    /// Podman.
    Podman,
    /// containerd for Kubernetes or nerdctl; names, images and labels are not known.
    Containerd,
    /// CRI-O; names, images and labels are not known.
    CriO,
}

impl Runtime {
    /// As policy writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
        }
    }
}

/// A container. The strings are what people chose: whoever prints them escapes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Whose it is.
    pub runtime: Runtime,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, if the engine told.
    pub name: Option<String>,
    /// The image as its maker named it, if the engine told: `docker.io/library/nginx:1.29`.
    pub image: Option<String>,
    /// Its labels, if the engine told.
    pub labels: BTreeMap<String, String>,
    /// The user in whose part of the tree it is: his word for it, and no more.
    pub rootless_of: Option<u32>,
}

/// A login session or a user manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id, as in `session-ID.scope`; `user@UID` of a user manager.
    pub id: String,
    /// `user`, `greeter`, `background` and so on as logind knows it; `manager` of a user manager.
    pub class: Option<String>,
    /// Whose.
    pub user: Option<u32>,
}

impl Container {
    /// Whether root or an engine of root made it.
    #[must_use]
    pub fn is_of_system(&self) -> bool {
        self.rootless_of.is_none()
    }
}

/// The cgroups from the root down to the one at `path`.
pub fn paths_to(path: &str) -> impl Iterator<Item = &str> {
    let above = path
        .match_indices('/')
        .filter_map(move |(slash, _)| path.get(..slash))
        .map(|above| if above.is_empty() { "/" } else { above });
    above.chain((path != "/").then_some(path))
}

impl Context {
    /// What the path of a cgroup proves. `path` is relative to the cgroup root, with a leading slash.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let unit = system_unit(path);
        Self {
            path: path.to_owned(),
            unit: unit.map(str::to_owned),
            slices: slices(path).map(str::to_owned).collect(),
            container: container::of_path(path),
            session: session(path),
            cron: unit.is_some_and(is_cron),
            ..Self::default()
        }
    }

    /// What the paths alone prove of the cgroup at `path` and those above it, from the root on.
    #[must_use]
    pub fn chain_of_path(path: &str) -> Vec<Self> {
        paths_to(path).map(Self::of_path).collect()
    }
}

const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// The unit of the system manager that the last component of `path` names.
fn system_unit(path: &str) -> Option<&str> {
    let (above, name) = path.rsplit_once('/')?;
    let in_slices = components(above).all(is_slice);
    // systemd puts an underscore before names that the kernel could take for its own files.
    let name = name.strip_prefix('_').unwrap_or(name);
    let is_unit = UNIT_SUFFIXES
        .iter()
        .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix));
    (in_slices && is_unit).then_some(name)
}

fn slices(path: &str) -> impl Iterator<Item = &str> {
    components(path).take_while(|component| is_slice(component))
}

fn session(path: &str) -> Option<Session> {
    let (user, mut below) = user_subtree(path)?;
    let name = below.next()?;
    if below.next().is_some() {
        return None;
    }
    if name == format!("user@{user}.service") {
        return Some(Session {
            id: format!("user@{user}"),
            class: Some("manager".to_owned()),
            user: Some(user),
        });
    }
    let id = name.strip_prefix("session-")?.strip_suffix(".scope")?;
    // As systemd makes them: what else stands there is somebody's scope with a like name.
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then(|| Session {
        id: id.to_owned(),
        class: None,
        user: Some(user),
    })
}

/// The user in whose slice `path` is, and what is below that slice.
fn user_subtree(path: &str) -> Option<(u32, impl Iterator<Item = &str>)> {
    let mut components = components(path);
    if components.next() != Some("user.slice") {
        return None;
    }
    let digits = components
        .next()?
        .strip_prefix("user-")?
        .strip_suffix(".slice")?;
    let user: u32 = digits.parse().ok()?;
    // One name for one user: neither `+1` nor `01`.
    (user.to_string() == digits).then_some((user, components))
}

fn is_cron(unit: &str) -> bool {
    const CRON: [&str; 6] = [
        "cron.service",
        "crond.service",
        "cronie.service",
        "anacron.service",
        "fcron.service",
        "bcron.service",
    ];
    CRON.contains(&unit)
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|component| !component.is_empty())
}

/// Whether a unit is a slice.
pub(crate) fn is_slice(component: &str) -> bool {
    component.ends_with(".slice")
}

/// Longest text of others that is kept.
const MAX_TEXT_BYTES: usize = 4_096;

/// `text` of others, unless it is empty, long, or holds control characters: then it says nothing.
fn bounded(text: &str) -> Option<String> {
    let is_good = (1..=MAX_TEXT_BYTES).contains(&text.len()) && !text.contains(char::is_control);
    is_good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
