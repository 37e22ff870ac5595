//! The cgroups by their ids: where they are, what is known of them, and whom they belong to.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use agentguard_common::{capacity::MAX_CGROUPS, cgroup::NO_CGROUP};

use crate::{
    audit::{self, Untrusted},
    identity::{
        context::{self, Context, is_slice},
        select::Selected,
    },
};

/// Removed cgroups that are remembered: their last events may still be in the ring.
const REMEMBERED: usize = 1_024;

/// A cgroup.
#[derive(Debug)]
pub(super) struct Place {
    /// Path below the cgroup root, with a leading slash.
    pub(super) path: Box<[u8]>,
    /// Whom it belongs to, in the policy that was in force when this was found out.
    pub(super) selected: Selected,
    /// What records tell of it.
    pub(super) told: Arc<audit::Place>,
}

impl Place {
    /// The cgroup at `path`, the last one of `chain`, which begins with the cgroup root.
    pub(super) fn new(path: &[u8], chain: &[(u64, Context)], selected: Selected) -> Self {
        let text = |text: &String| Untrusted::new(text.as_bytes());
        // What is nearest says most.
        let unit = chain.iter().rev().find_map(|(id, context)| {
            let unit = context.unit.as_ref().filter(|unit| !is_slice(unit))?;
            Some((*id, unit, &context.run_id))
        });
        let container = chain
            .iter()
            .rev()
            .find_map(|(id, context)| Some((*id, context.container.as_ref()?)));
        let invocation = unit.and_then(|(_, _, run)| run.clone());
        let id = container
            .map(|(id, _)| id)
            .or(unit.map(|(id, ..)| id))
            .or(chain.last().map(|(id, _)| *id));
        Self {
            path: path.into(),
            selected,
            told: Arc::new(audit::Place {
                cgroup: Untrusted::new(path),
                unit: unit.map(|(_, unit, _)| text(unit)),
                run: invocation.unwrap_or_else(|| format!("cgroup-{}", id.unwrap_or(NO_CGROUP))),
                container: container.map(|(_, container)| audit::Container {
                    runtime: container.runtime.name(),
                    id: text(&container.id),
                    name: container.name.as_ref().map(text),
                    image: container.image.as_ref().map(text),
                }),
            }),
        }
    }

    /// How far below the cgroup root it is.
    pub(super) fn depth(&self) -> usize {
        context::paths_to(&self.text()).count() - 1
    }

    /// The path of the cgroup `depth` below the root that it is in or is itself.
    pub(super) fn above(&self, depth: usize) -> String {
        let text = self.text();
        let path = context::paths_to(&text).nth(depth).unwrap_or("/");
        path.to_owned()
    }

    fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.path)
    }
}

/// The cgroups that are, and those that were lately.
#[derive(Debug, Default)]
pub(super) struct Places {
    live: HashMap<u64, Arc<Place>>,
    gone: VecDeque<(u64, Arc<Place>)>,
}

impl Places {
    /// Takes a new tree in place of the old one.
    pub(super) fn replace(&mut self, live: HashMap<u64, Arc<Place>>) {
        self.live = live;
    }

    /// Adds a cgroup or what is new of it, unless there are more than can be labelled.
    pub(super) fn insert(&mut self, id: u64, place: Place) {
        if self.live.len() < MAX_CGROUPS as usize || self.live.contains_key(&id) {
            self.live.insert(id, place.into());
        }
    }

    /// A cgroup was removed.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(place) = self.live.remove(&id) {
            if self.gone.len() == REMEMBERED {
                self.gone.pop_front();
            }
            self.gone.push_back((id, place));
        }
    }

    /// A cgroup that is or was.
    #[must_use]
    pub(super) fn get(&self, id: u64) -> Option<&Arc<Place>> {
        let gone = || self.gone.iter().rev().find(|(gone, _)| *gone == id);
        self.live
            .get(&id)
            .or_else(|| gone().map(|(_, place)| place))
    }

    /// Those that are.
    pub(super) fn live(&self) -> impl Iterator<Item = (u64, &Arc<Place>)> {
        self.live.iter().map(|(&id, place)| (id, place))
    }
}

#[cfg(test)]
mod tests;
