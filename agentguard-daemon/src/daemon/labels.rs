//! Cgroups that come, go and gain tasks: their labels follow.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
};

use agentguard_common::{
    capacity::CGROUP_RING_BYTES,
    cgroup::{CGROUP_PATH_BYTES, CgroupEvent, CgroupEventKind, NO_CGROUP, Rank},
    identity::AgentId,
};

use super::{Daemon, generation::encode};
use crate::{
    audit::escape::escape,
    identity::{
        cgroups::{self, Located},
        context::{Context, resolver::Resolver},
        select::{Ground, select},
    },
    kernel::CgroupLabel,
    policy::compiled::Compiled,
};

/// Records that fill the ring, less one for rounding. Whoever takes fewer from it before it is empty
/// knows that none was lost.
const FULL_RING: usize = CGROUP_RING_BYTES as usize / (size_of::<CgroupEvent>() + 8) - 1;

/// The cgroups that are there.
pub(super) struct Labelled {
    /// Those that need a label of their own.
    pub(super) labels: Vec<(u64, CgroupLabel)>,
    /// The paths of all.
    pub(super) paths: HashMap<u64, Box<[u8]>>,
}

impl Daemon {
    /// Takes in what the kernel tells of cgroups, until it has nothing more to tell.
    pub(super) fn follow_cgroups(&mut self) {
        let mut taken = 0;
        while let Some(event) = self.cgroup_ring.next() {
            taken += 1;
            match event {
                Ok(event) => self.follow_cgroup(&event),
                Err(error) => {
                    self.cgroup_events_lost += 1;
                    tracing::error!(%error, "a report of a cgroup is lost");
                }
            }
        }
        if taken >= FULL_RING {
            tracing::warn!("cgroups came faster than they were looked at: looking at all");
            self.label_all();
        }
    }

    /// The labels of all cgroups that are there, and their paths.
    ///
    /// # Errors
    ///
    /// If the cgroup tree cannot be read.
    pub(super) fn labels_of_all(
        &mut self,
        compiled: &Compiled,
        ids: &[AgentId],
    ) -> io::Result<Labelled> {
        let mut labels = Vec::new();
        let mut paths = HashMap::new();
        let mut chain: Vec<(u64, Context)> = Vec::new();
        let launched = self.launched(compiled, ids);
        let resolver = &mut self.resolver;
        cgroups::walk(&self.cgroup_root, &mut |cgroup, directory| {
            chain.truncate(cgroup.depth);
            let path = String::from_utf8_lossy(&cgroup.path);
            let context = resolver.context(cgroup.id, &path, Some(directory));
            chain.push((cgroup.id, context));
            let label = label_of(compiled, ids, &launched, &chain);
            labels.extend(label.map(|label| (cgroup.id, label)));
            paths.insert(cgroup.id, cgroup.path.as_slice().into());
        })?;
        Ok(Labelled { labels, paths })
    }

    /// Whose the cgroups of launches are, as far as policy has the identity.
    fn launched(&self, compiled: &Compiled, ids: &[AgentId]) -> HashMap<u64, AgentId> {
        let id_of = |name: &str| {
            let mut identities = compiled.identities.iter();
            let index = identities.position(|identity| identity.name == name)?;
            ids.get(index).copied()
        };
        self.launches
            .iter()
            .filter_map(|launch| Some((launch.cgroup_id, id_of(&launch.identity)?)))
            .collect()
    }

    /// Labels every cgroup that is there anew: reports may have been lost, or more is known of one.
    fn label_all(&mut self) {
        let Some(policy) = self.in_force.clone() else {
            return;
        };
        match self.labels_of_all(&policy.compiled, &policy.ids) {
            Ok(Labelled { labels, paths }) => {
                if let Err(error) = self.kernel.replace_labels(&labels) {
                    tracing::error!(%error, "cgroups got no label");
                }
                self.take_paths(paths);
            }
            Err(error) => tracing::error!(%error, "the cgroups cannot be read"),
        }
        self.enrolment.want();
    }

    /// Takes in which cgroups are there. Others may have been removed while nobody was told.
    pub(super) fn take_paths(&mut self, paths: HashMap<u64, Box<[u8]>>) {
        if let Err(error) = self.kernel.keep_labels(|id| paths.contains_key(&id)) {
            tracing::warn!(%error, "removed cgroups keep their labels");
        }
        self.resolver.keep(|id| paths.contains_key(&id));
        self.paths.replace(paths);
    }

    /// Takes in what others have told of a cgroup.
    pub(super) fn learn_context(&mut self, id: u64) {
        let Some(path) = self.paths.path(id).map(<[u8]>::to_vec) else {
            return;
        };
        // What is below it depends on it too.
        if cgroups::has_children(&self.cgroup_root, &path) {
            self.label_all();
        } else {
            self.label_one(id, &path);
        }
    }

    /// Takes in one report of the kernel.
    fn follow_cgroup(&mut self, event: &CgroupEvent) {
        match event.kind {
            CgroupEventKind::Created => {
                if let Some(path) = self.path_below_root(event) {
                    self.label_new(event.cgroup_id, &path);
                }
            }
            CgroupEventKind::Removed => {
                self.paths.remove(event.cgroup_id);
                self.resolver.forget(event.cgroup_id);
                if let Err(error) = self.kernel.unlabel(event.cgroup_id) {
                    tracing::warn!(%error, cgroup = event.cgroup_id, "a removed cgroup keeps its label");
                }
            }
            CgroupEventKind::TaskAttached => self.enrolment.want(),
        }
    }

    fn label_new(&mut self, id: u64, path: &[u8]) {
        self.paths.insert(id, path);
        self.label_one(id, path);
        // Its tasks may have been faster than this.
        if cgroups::is_populated(&self.cgroup_root, path) {
            self.enrolment.want();
        }
    }

    fn label_one(&mut self, id: u64, path: &[u8]) {
        let Some(policy) = self.in_force.clone() else {
            return;
        };
        let chain = chain_of(&self.cgroup_root, &mut self.resolver, path);
        // Another may stand at the path by now.
        if chain.last().is_some_and(|(last, _)| *last != id) {
            return;
        }
        let launched = self.launched(&policy.compiled, &policy.ids);
        let label = label_of(&policy.compiled, &policy.ids, &launched, &chain);
        let labelled = match &label {
            Some(label) => self.kernel.label(id, label),
            None => self.kernel.unlabel(id),
        };
        if let Err(error) = labelled {
            // It is judged as what is above it, which for an agent is no more than it may.
            tracing::error!(%error, path = printable(path), "a new cgroup got no label");
        }
    }

    /// Path below the cgroup root of the cgroup that `event` is about, if it is below it.
    fn path_below_root(&self, event: &CgroupEvent) -> Option<Vec<u8>> {
        let length = (event.path_len as usize).min(CGROUP_PATH_BYTES);
        let reported = event.path.get(..length).unwrap_or_default();
        let reported = reported.strip_suffix(&[0]).unwrap_or(reported);
        let located = if length == CGROUP_PATH_BYTES {
            Located::Unclear
        } else {
            self.hierarchy.locate(reported)
        };
        match located {
            Located::Inside(path) => Some(path.to_vec()),
            Located::Outside => None,
            Located::Unclear => cgroups::find(&self.cgroup_root, event.cgroup_id)
                .inspect_err(|error| tracing::error!(%error, "the cgroups cannot be read"))
                .ok()
                .flatten(),
        }
    }
}

/// The cgroups from the root down to the one at `path`, with what is known of each.
pub(super) fn chain_of(root: &Path, resolver: &mut Resolver, path: &[u8]) -> Vec<(u64, Context)> {
    let ends = (1..path.len()).filter(|&end| path[end] == b'/');
    let is_below = path.len() > 1;
    let ends = std::iter::once(1)
        .chain(ends)
        .chain(is_below.then_some(path.len()));
    ends.map(|end| {
        let path = &path[..end];
        let name = String::from_utf8_lossy(path);
        let known = File::open(root.join(OsStr::from_bytes(&path[1..]))).and_then(|directory| {
            let id = directory.metadata()?.ino();
            let directory = OwnedFd::from(directory);
            Ok((id, resolver.context(id, &name, Some(&directory))))
        });
        // It is gone.
        known.unwrap_or_else(|_| (NO_CGROUP, Context::of_path(&name)))
    })
    .collect()
}

/// The label of a cgroup that somebody was launched into.
pub(super) fn of_launch(identity: AgentId) -> CgroupLabel {
    CgroupLabel {
        identity,
        rank: Rank::Launch,
        facts: 0,
        choices: Vec::new(),
    }
}

/// The label of the last cgroup of `chain`, if it is another one than that of the cgroup above it.
fn label_of(
    compiled: &Compiled,
    ids: &[AgentId],
    launched: &HashMap<u64, AgentId>,
    chain: &[(u64, Context)],
) -> Option<CgroupLabel> {
    let ((id, _), above) = chain.split_last()?;
    if above.iter().any(|(id, _)| launched.contains_key(id)) {
        return None;
    }
    let contexts: Vec<&Context> = chain.iter().map(|(_, context)| context).collect();
    let selected = select(compiled, &contexts);
    if let Some(&identity) = launched.get(id) {
        return Some(CgroupLabel {
            facts: selected.facts,
            ..of_launch(identity)
        });
    }
    if selected.cut {
        tracing::warn!(
            "a cgroup has more identities to choose from than fit: the last are left out"
        );
    }
    let inherited = match contexts.split_last() {
        Some((_, above)) if !above.is_empty() => !selected.differs(&select(compiled, above)),
        _ => matches!(selected.ground, Ground::Nothing) && selected.choices.is_empty(),
    };
    let identity = *ids.get(selected.index).filter(|_| !inherited)?;
    Some(CgroupLabel {
        identity,
        rank: selected.rank,
        facts: selected.facts,
        choices: encode(&selected.choices, ids),
    })
}

fn printable(path: &[u8]) -> String {
    escape(path, usize::MAX).text
}
