//! Conditions on a process, as the compiled policy keeps them: those on its cgroup can be looked at
//! here, the others are for the kernel.

use std::collections::BTreeSet;

use globset::{Glob, GlobMatcher};

use super::Container;
use crate::identity::context::{self, Context, Runtime};

/// One condition.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Over the unit that the cgroup is of.
    Unit(GlobMatcher),
    /// Over the slices that the cgroup is in.
    Slice(GlobMatcher),
    /// Over the slice that the cgroup is itself.
    OwnSlice(GlobMatcher),
    /// Over the path of the cgroup. `*` stays within one component, `**` crosses them.
    Cgroup(GlobMatcher),
    /// Over the container that the cgroup belongs to.
    Container(Box<ContainerCondition>),
    /// Over the class of the login session that the cgroup belongs to.
    SessionClass(GlobMatcher),
    /// Its unit claims this identity.
    Claim(String),
    /// The real user is one of these.
    Users(Accounts),
    /// The real group is one of these, or has the user as a member.
    Groups(Accounts),
    /// The executable has a certain hash.
    Hash(String),
    /// The executable of the parent matches one of these.
    Parent(Vec<Glob>),
}

/// Users or groups.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Their numbers.
    pub ids: BTreeSet<u32>,
    /// As policy writes them.
    pub text: String,
}

/// Over a container; the conditions that are there must all hold.
#[derive(Clone, Debug)]
pub struct ContainerCondition {
    runtime: Option<Runtime>,
    id: Option<GlobMatcher>,
    name: Option<GlobMatcher>,
    image: Option<GlobMatcher>,
    labels: Vec<(String, GlobMatcher)>,
}

impl Condition {
    /// Whether a cgroup fulfils it by itself; nothing where that is not a matter of cgroups.
    #[must_use]
    pub fn holds(&self, context: &Context) -> Option<bool> {
        let unit = context.unit.as_deref();
        Some(match self {
            Self::Unit(glob) => unit.is_some_and(|unit| glob.is_match(unit)),
            Self::Slice(glob) => context.slices.iter().any(|slice| glob.is_match(slice)),
            Self::OwnSlice(glob) => {
                unit.is_some_and(|unit| unit.ends_with(".slice") && glob.is_match(unit))
            }
            Self::Cgroup(glob) => glob.is_match(&context.path),
            Self::Container(wanted) => context
                .container
                .as_ref()
                .is_some_and(|container| wanted.holds(container)),
            Self::SessionClass(glob) => context
                .session
                .as_ref()
                .and_then(|session| session.class.as_deref())
                .is_some_and(|class| glob.is_match(class)),
            Self::Claim(name) => context.claim.as_ref() == Some(name),
            Self::Users(_) | Self::Groups(_) | Self::Hash(_) | Self::Parent(_) => return None,
        })
    }

    /// Whether it is about cgroups.
    #[must_use]
    pub fn is_of_cgroup(&self) -> bool {
        self.holds(&Context::default()).is_some()
    }

    /// As policy writes it.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Unit(glob) => format!("systemd-unit = {:?}", glob.glob().glob()),
            Self::Slice(glob) | Self::OwnSlice(glob) => {
                format!("slice = {:?}", glob.glob().glob())
            }
            Self::Cgroup(glob) => format!("cgroup = {:?}", glob.glob().glob()),
            Self::Container(container) => container.text(),
            Self::SessionClass(glob) => format!("session-class = {:?}", glob.glob().glob()),
            Self::Claim(_) => "claimable-by-unit = true".to_owned(),
            Self::Users(users) => format!("user = {}", users.text),
            Self::Groups(groups) => format!("group = {}", groups.text),
            Self::Hash(text) => text.clone(),
            Self::Parent(globs) => format!("parent-executable = {}", list_text(globs)),
        }
    }
}

/// One glob, or a list of them, as policy writes it.
pub(super) fn list_text(globs: &[Glob]) -> String {
    match globs {
        [glob] => format!("{:?}", glob.glob()),
        _ => {
            let texts: Vec<String> = globs
                .iter()
                .map(|glob| format!("{:?}", glob.glob()))
                .collect();
            format!("[{}]", texts.join(", "))
        }
    }
}

impl ContainerCondition {
    pub(super) fn new(container: &Container) -> Self {
        let matcher = |glob: &Option<Glob>| glob.as_ref().map(Glob::compile_matcher);
        Self {
            runtime: container.runtime,
            id: matcher(&container.id),
            name: matcher(&container.name),
            image: matcher(&container.image),
            labels: container
                .labels
                .iter()
                .map(|(key, glob)| (key.clone(), glob.compile_matcher()))
                .collect(),
        }
    }

    fn holds(&self, container: &context::Container) -> bool {
        let fits = |glob: &Option<GlobMatcher>, text: Option<&String>| {
            glob.as_ref()
                .is_none_or(|glob| text.is_some_and(|text| glob.is_match(text)))
        };
        // A user can give a cgroup of any process of his the name of any container.
        container.is_of_system()
            && self
                .runtime
                .is_none_or(|runtime| runtime == container.runtime)
            && fits(&self.id, Some(&container.id))
            && fits(&self.name, container.name.as_ref())
            && fits(&self.image, container.image.as_ref())
            && self.labels.iter().all(|(key, glob)| {
                container
                    .labels
                    .get(key)
                    .is_some_and(|text| glob.is_match(text))
            })
    }

    fn text(&self) -> String {
        let glob = |key: &str, glob: &Option<GlobMatcher>| {
            Some(format!("{key} = {:?}", glob.as_ref()?.glob().glob()))
        };
        let runtime = self
            .runtime
            .map(|runtime| format!("runtime = {:?}", runtime.name()));
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(key, glob)| format!("{key:?} = {:?}", glob.glob().glob()))
            .collect();
        let labels = (!labels.is_empty()).then(|| format!("labels = {{ {} }}", labels.join(", ")));
        let parts: Vec<String> = [
            runtime,
            glob("id", &self.id),
            glob("name", &self.name),
            glob("image", &self.image),
            labels,
        ]
        .into_iter()
        .flatten()
        .collect();
        format!("container = {{ {} }}", parts.join(", "))
    }
}
