//! How the daemon is, and whom the cgroups belong to.

use std::{collections::BTreeMap, path::Path};

use agentguard_common::{audit::Counters, identity::AgentId};

use super::{Daemon, generation::InForce};
use crate::{
    audit::escape::escape,
    control::{CgroupOwner, ClassTotal, ErrorKind, IdentityStatus, Response, Status, Totals, Why},
    identity::{
        cgroups,
        select::{Ground, select},
    },
    kernel::KernelError,
    policy::compiled::{Class, CompiledIdentity, Selector, UNKNOWN},
};

impl Daemon {
    /// How it is.
    pub(super) fn status(&self) -> Result<Status, KernelError> {
        let mut identities = Vec::new();
        let mut totals: BTreeMap<&'static str, ClassTotal> = BTreeMap::new();
        let mut automation = Totals::default();
        let mut people = Totals::default();
        let policy = self.in_force.as_deref();
        for (identity, id) in policy.iter().flat_map(|policy| policy.identities()) {
            let counters = self.kernel.counters(id)?;
            let total = totals
                .entry(identity.class.word())
                .or_insert_with(|| ClassTotal {
                    class: identity.class,
                    identities: 0,
                    counters: Totals::default(),
                });
            total.identities += 1;
            let counted = Totals::from(&counters);
            total.counters += counted;
            match identity.class {
                Class::Agent | Class::Ci | Class::Cron | Class::Service => automation += counted,
                Class::Human => people += counted,
                Class::Unknown => {}
            }
            identities.push(IdentityStatus {
                id: id.0,
                name: identity.name.clone(),
                class: identity.class,
                mode: identity.mode,
                owner: identity.owner.clone(),
                expires: identity.expires.map(|expires| expires.to_string()),
                counters: counted,
                events: self.trail.accounts().balance(id, &counters),
            });
        }
        let undecodable = self.trail.accounts().undecodable();
        let process_losses = self.kernel.process_losses()?;
        let dropped: u64 = identities.iter().map(|status| status.events.dropped).sum();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started_at,
            uptime_seconds: self.started.elapsed().as_secs(),
            cgroup_root: self.cgroup_root.clone(),
            generation: self.kernel.generation(),
            policy_files: policy
                .map(|policy| policy.files.clone())
                .unwrap_or_default(),
            policies_rejected: self.policies_rejected,
            last_rejection: self.last_rejection.clone(),
            degraded: self.degraded.clone(),
            programs: self.kernel.programs().to_vec(),
            identities,
            totals: totals.into_values().collect(),
            automation,
            people,
            events_lost: dropped + undecodable,
            events_undecodable: undecodable,
            cgroup_events_lost: self.cgroup_events_lost,
            process_labels_lost: process_losses.labels,
            process_events_lost: process_losses.events,
            sinks: self
                .sinks
                .iter()
                .map(|sink| sink.status().clone())
                .collect(),
        })
    }
}

impl InForce {
    fn identities(&self) -> impl Iterator<Item = (&CompiledIdentity, AgentId)> {
        self.compiled
            .identities
            .iter()
            .zip(self.ids.iter().copied())
    }
}

impl From<&Counters> for Totals {
    fn from(counters: &Counters) -> Self {
        Self {
            allowed: counters.allowed,
            denied: counters.denied,
            would_deny: counters.would_deny,
            closed: counters.closed,
            bytes_out: counters.bytes_out,
            bytes_in: counters.bytes_in,
        }
    }
}

/// Whom the cgroups below `root` belong to that are selected or have processes.
#[must_use]
pub(super) fn owners(policy: &InForce, root: &Path) -> Response {
    let mut cgroups = Vec::new();
    // The cgroups from the root down to the one before, with whom they belong to.
    let mut above: Vec<(String, Option<usize>)> = Vec::new();
    let walked = cgroups::walk(root, &mut |cgroup, directory| {
        above.truncate(cgroup.depth);
        let selected = select(&policy.compiled, &cgroup.path);
        let pids = cgroups::processes(directory);
        let nearest = above
            .iter()
            .rev()
            .find_map(|(path, index)| index.map(|index| (path.clone(), index)));
        let is_selected = selected.is_some();
        let path = escape(&cgroup.path, usize::MAX).text;
        above.push((path.clone(), selected.map(|selected| selected.index)));
        if pids.is_empty() && !is_selected {
            return;
        }
        let (index, why) = match (selected, nearest) {
            (Some(selected), _) => (selected.index, why(&selected.ground)),
            (None, Some((from, index))) => (index, Why::Inherited { from }),
            (None, None) => (UNKNOWN, Why::Default),
        };
        if let Some(identity) = policy.compiled.identities.get(index) {
            cgroups.push(CgroupOwner {
                path,
                id: cgroup.id,
                identity: identity.name.clone(),
                class: identity.class,
                why,
                pids,
            });
        }
    });
    cgroups.sort_by(|a, b| a.path.cmp(&b.path));
    match walked {
        Ok(()) => Response::Cgroups { cgroups },
        Err(error) => Response::Error {
            kind: ErrorKind::Failed,
            message: format!("the cgroups cannot be read: {error}"),
        },
    }
}

fn why(ground: &Ground<'_>) -> Why {
    match ground {
        Ground::Selector(selector) => Why::Selector {
            selector: describe(selector),
            location: selector.location.clone(),
        },
        Ground::AgentsSlice => Why::AgentsSlice,
    }
}

fn describe(selector: &Selector) -> String {
    [
        ("systemd-unit", &selector.systemd_unit),
        ("cgroup", &selector.cgroup),
    ]
    .into_iter()
    .filter_map(|(key, glob)| Some(format!("{key} = {:?}", glob.as_ref()?.glob().glob())))
    .collect::<Vec<_>>()
    .join(", ")
}
