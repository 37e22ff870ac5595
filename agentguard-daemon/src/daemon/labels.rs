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
    sync::Arc,
};

use agentguard_common::{
    capacity::CGROUP_RING_BYTES,
    cgroup::{CGROUP_PATH_BYTES, CgroupEvent, CgroupEventKind, NO_CGROUP, Rank},
    identity::AgentId,
};

use super::{Daemon, generation::encode, places::Place};
use crate::{
    audit::escape::escape,
    identity::{
        cgroups::{self, Located},
        context::{Context, resolver::Resolver},
        launch::Launches,
        select::{Ground, Selected, select},
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
    /// All of them.
    pub(super) places: HashMap<u64, Arc<Place>>,
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
        let mut places = HashMap::new();
        let mut chain: Vec<(u64, Context)> = Vec::new();
        let launches = &self.launches;
        let resolver = &mut self.resolver;
        cgroups::walk(&self.cgroup_root, &mut |cgroup, directory| {
            chain.truncate(cgroup.depth);
            let path = String::from_utf8_lossy(&cgroup.path);
            let context = resolver.context(cgroup.id, &path, Some(directory));
            chain.push((cgroup.id, context));
            let (selected, label) = judge(compiled, ids, launches, &chain);
            labels.extend(label.map(|label| (cgroup.id, label)));
            let place = Place::new(&cgroup.path, &chain, selected);
            places.insert(cgroup.id, place.into());
        })?;
        Ok(Labelled { labels, places })
    }

    /// Labels every cgroup that is there anew: reports may have been lost, or more is known of one.
    fn label_all(&mut self) {
        let Some(policy) = self.in_force.clone() else {
            return;
        };
        match self.labels_of_all(&policy.compiled, &policy.ids) {
            Ok(Labelled { labels, places }) => {
                if let Err(error) = self.kernel.replace_labels(&labels) {
                    tracing::error!(%error, "cgroups got no label");
                }
                self.take_places(places);
            }
            Err(error) => tracing::error!(%error, "the cgroups cannot be read"),
        }
        self.enrolment.want();
    }

    /// Takes in which cgroups are there. Others may have been removed while nobody was told.
    pub(super) fn take_places(&mut self, places: HashMap<u64, Arc<Place>>) {
        if let Err(error) = self.kernel.keep_labels(|id| places.contains_key(&id)) {
            tracing::warn!(%error, "removed cgroups keep their labels");
        }
        self.resolver.keep(|id| places.contains_key(&id));
        self.places.replace(places);
        self.conditions.forget();
    }

    /// Takes in what others have told of a cgroup.
    pub(super) fn learn_context(&mut self, id: u64) {
        let Some(path) = self.places.get(id).map(|place| place.path.clone()) else {
            return;
        };
        self.conditions.forget();
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
                self.places.remove(event.cgroup_id);
                self.resolver.forget(event.cgroup_id);
                if let Err(error) = self.kernel.unlabel(event.cgroup_id) {
                    tracing::warn!(%error, cgroup = event.cgroup_id, "a removed cgroup keeps its label");
                }
            }
            CgroupEventKind::TaskAttached => self.enrolment.want(),
        }
    }

    fn label_new(&mut self, id: u64, path: &[u8]) {
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
        let (selected, label) = judge(&policy.compiled, &policy.ids, &self.launches, &chain);
        self.places.insert(id, Place::new(path, &chain, selected));
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

/// Whom the last cgroup of `chain` belongs to, and its label, if it is another one than that of the
/// cgroup above it.
fn judge(
    compiled: &Compiled,
    ids: &[AgentId],
    launches: &Launches,
    chain: &[(u64, Context)],
) -> (Selected, Option<CgroupLabel>) {
    let contexts: Vec<&Context> = chain.iter().map(|(_, context)| context).collect();
    let selected = select(compiled, &contexts);
    if let Some((at, index)) = launched(compiled, launches, chain) {
        let is_itself = at + 1 == chain.len();
        let label = ids
            .get(index)
            .filter(|_| is_itself)
            .map(|&identity| CgroupLabel {
                facts: selected.facts,
                ..of_launch(identity)
            });
        let selected = Selected {
            index,
            rank: Rank::Launch,
            ground: Ground::Launch,
            at,
            choices: Vec::new(),
            before: Vec::new(),
            ..selected
        };
        return (selected, label);
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
    let label = ids
        .get(selected.index)
        .filter(|_| !inherited)
        .map(|&identity| CgroupLabel {
            identity,
            rank: selected.rank,
            facts: selected.facts,
            choices: encode(&selected.choices, ids),
        });
    (selected, label)
}

/// The launch that the last cgroup of `chain` is of or in, as far as policy has its identity: where in
/// the chain it is, and the index of the identity.
fn launched(
    compiled: &Compiled,
    launches: &Launches,
    chain: &[(u64, Context)],
) -> Option<(usize, usize)> {
    chain.iter().enumerate().find_map(|(at, (id, _))| {
        let launch = launches.find(*id)?;
        Some((at, compiled.index_of(&launch.identity)?))
    })
}

fn printable(path: &[u8]) -> String {
    escape(path, usize::MAX).text
}
