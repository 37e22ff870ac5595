//! How the daemon is, and whom the cgroups belong to.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use agentguard_common::{audit::Counters, fact::LOGIN, identity::AgentId};

use super::{Daemon, generation::InForce, places::Place};
use crate::{
    audit::escape::escape,
    control::{
        Alternative, CgroupOwner, ClassTotal, IdentityStatus, Response, Status, Totals, Why,
    },
    identity::{
        cgroups,
        select::{Ground, Selected},
    },
    kernel::KernelError,
    policy::compiled::{Class, CompiledIdentity},
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
            let balance = self.trail.accounts().balance(id, &counters);
            let total = totals
                .entry(identity.class.name())
                .or_insert_with(|| ClassTotal {
                    class: identity.class,
                    identities: 0,
                    counters: Totals::default(),
                });
            let counted = Totals::from(&counters);
            total.counters += counted;
            match identity.class {
                Class::Agent | Class::Ci | Class::Cron | Class::Service => automation += counted,
                Class::Human => people += counted,
                Class::Unknown => {}
            }
            // A variant is the same identity with other rules; it comes after it.
            if let Some(base) = identity.variant_of {
                if let Some(status) = identities.get_mut(base) {
                    let status: &mut IdentityStatus = status;
                    status.counters += counted;
                    status.events += balance;
                }
                continue;
            }
            total.identities += 1;
            identities.push(IdentityStatus {
                id: id.0,
                name: identity.name.clone(),
                class: identity.class,
                mode: identity.mode,
                owner: identity.owner.clone(),
                expires: identity.expires.map(|expires| expires.to_string()),
                counters: counted,
                open: self.kernel.limit_state(id.0)?.bucket.open,
                events: balance,
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
            limits: policy
                .map(|policy| self.limit_statuses(policy))
                .transpose()?
                .unwrap_or_default(),
            totals: totals.into_values().collect(),
            automation,
            people,
            events_lost: dropped + undecodable,
            events_undecodable: undecodable,
            events_missing: self.trail.sequences().missing(),
            cgroup_events_lost: self.cgroup_events_lost,
            process_labels_lost: process_losses.labels,
            process_events_lost: process_losses.events,
            history: self.history.status(),
            sinks: self.delivery.statuses(),
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

/// Whom `cgroups` below `root` belong to, those that are selected or have processes.
#[must_use]
pub(super) fn owners(policy: &InForce, root: &Path, cgroups: &[(u64, Arc<Place>)]) -> Response {
    let mut owned: Vec<CgroupOwner> = cgroups
        .iter()
        .filter_map(|(id, place)| owner(policy, root, *id, place))
        .collect();
    owned.sort_by(|a, b| a.path.cmp(&b.path));
    Response::Cgroups { cgroups: owned }
}

fn owner(policy: &InForce, root: &Path, id: u64, place: &Place) -> Option<CgroupOwner> {
    let selected = &place.selected;
    let pids = cgroups::processes_at(root, &place.path);
    let own = selected.at == place.depth() && selected.ground != Ground::Nothing;
    if pids.is_empty() && !own {
        return None;
    }
    let identity = policy.compiled.identities.get(selected.index)?;
    Some(CgroupOwner {
        path: escape(&place.path, usize::MAX).text,
        id,
        identity: identity.name.clone(),
        class: identity.class,
        why: why(policy, place, own),
        alternatives: alternatives(policy, selected),
        pids,
    })
}

fn why(policy: &InForce, place: &Place, own: bool) -> Why {
    let inherited = || Why::Inherited {
        from: escape(place.above(place.selected.at).as_bytes(), usize::MAX).text,
    };
    match place.selected.ground {
        Ground::Nothing => Why::Default,
        Ground::Selector(id) => match policy.compiled.selector(id.identity, id.number) {
            // A selector without a cgroup matches here as well as at the root.
            Some(selector) if own || selector.here.is_empty() => Why::Selector {
                selector: selector.text.clone(),
                location: selector.location.clone(),
            },
            _ => inherited(),
        },
        Ground::Launch if own => Why::Launch,
        Ground::AgentsSlice if own => Why::AgentsSlice,
        Ground::BuiltIn if own => Why::BuiltIn,
        Ground::Launch | Ground::AgentsSlice | Ground::BuiltIn => inherited(),
    }
}

fn alternatives(policy: &InForce, selected: &Selected) -> Vec<Alternative> {
    let selection = &policy.compiled.selection;
    selected
        .choices
        .iter()
        .filter_map(|choice| {
            let no_login = choice.forbidden & LOGIN != 0;
            Some(Alternative {
                identity: policy
                    .compiled
                    .identities
                    .get(choice.identity)?
                    .name
                    .clone(),
                when: selection
                    .describe(choice.required)
                    .map(str::to_owned)
                    .chain(no_login.then(|| "login = false".to_owned()))
                    .collect(),
            })
        })
        .collect()
}
