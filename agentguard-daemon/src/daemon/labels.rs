//! Cgroups that come, go and gain tasks: their labels follow.

use std::collections::HashMap;

use agentguard_common::{
    capacity::CGROUP_RING_BYTES,
    cgroup::{CGROUP_PATH_BYTES, CgroupEvent, CgroupEventKind},
};

use super::{Daemon, generation::own_label};
use crate::{
    audit::escape::escape,
    identity::cgroups::{self, Located},
};

/// Records that fill the ring, less one for rounding. Whoever takes fewer from it before it is empty
/// knows that none was lost.
const FULL_RING: usize = CGROUP_RING_BYTES as usize / (size_of::<CgroupEvent>() + 8) - 1;

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

    /// Labels every cgroup that is there, after reports may have been lost.
    fn label_all(&mut self) {
        let Some(policy) = self.in_force.clone() else {
            return;
        };
        let mut paths = HashMap::new();
        let kernel = &mut self.kernel;
        let walked = cgroups::walk(&self.cgroup_root, &mut |cgroup, _| {
            if let Some(label) = own_label(&policy.compiled, &policy.ids, &cgroup.path)
                && let Err(error) = kernel.label(cgroup.id, &label)
            {
                tracing::error!(%error, path = printable(&cgroup.path), "a cgroup got no label");
            }
            paths.insert(cgroup.id, cgroup.path.as_slice().into());
        });
        match walked {
            Ok(()) => self.paths.replace(paths),
            Err(error) => tracing::error!(%error, "the cgroups cannot be read"),
        }
        self.enrolment.want();
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
                if let Err(error) = self.kernel.unlabel(event.cgroup_id) {
                    tracing::warn!(%error, cgroup = event.cgroup_id, "a removed cgroup keeps its label");
                }
            }
            CgroupEventKind::TaskAttached => self.enrolment.want(),
        }
    }

    fn label_new(&mut self, id: u64, path: &[u8]) {
        self.paths.insert(id, path);
        let Some(policy) = &self.in_force else {
            return;
        };
        let Some(label) = own_label(&policy.compiled, &policy.ids, path) else {
            return;
        };
        if let Err(error) = self.kernel.label(id, &label) {
            // It is judged as what is above it, which for an agent is no more than it may.
            tracing::error!(%error, path = printable(path), "a new cgroup got no label");
        }
        // Its tasks may have been faster than this.
        if cgroups::is_populated(&self.cgroup_root, path) {
            self.enrolment.want();
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

fn printable(path: &[u8]) -> String {
    escape(path, usize::MAX).text
}
