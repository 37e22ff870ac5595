//! How the daemon is, and whom the cgroups belong to.

use std::{collections::BTreeMap, path::Path};

use agentguard_common::{audit::Counters, fact::LOGIN, identity::AgentId};

use super::{Daemon, generation::InForce};
use crate::{
    audit::escape::escape,
    control::{
        Alternative, CgroupOwner, ClassTotal, ErrorKind, IdentityStatus, Response, Status, Totals,
        Why,
    },
    identity::{
        cgroups,
        context::Context,
        select::{Ground, Selected, select},
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
    // The cgroups from the root down to this one.
    let mut chain: Vec<Context> = Vec::new();
    let walked = cgroups::walk(root, &mut |cgroup, directory| {
        chain.truncate(cgroup.depth);
        chain.push(Context::of_path(&String::from_utf8_lossy(&cgroup.path)));
        let refs: Vec<&Context> = chain.iter().collect();
        let selected = select(&policy.compiled, &refs);
        let pids = cgroups::processes(directory);
        let path = escape(&cgroup.path, usize::MAX).text;
        let own = selected.at + 1 == chain.len() && !matches!(selected.ground, Ground::Nothing);
        if pids.is_empty() && !own {
            return;
        }
        if let Some(identity) = policy.compiled.identities.get(selected.index) {
            cgroups.push(CgroupOwner {
                path,
                id: cgroup.id,
                identity: identity.name.clone(),
                class: identity.class,
                why: why(&selected, own, &chain),
                alternatives: alternatives(policy, &selected),
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

fn why(selected: &Selected<'_>, own: bool, chain: &[Context]) -> Why {
    match selected.ground {
        Ground::Nothing => Why::Default,
        // A selector without a cgroup matches here as well as at the root.
        Ground::Selector(selector) if own || selector.here.is_empty() => Why::Selector {
            selector: selector.text.clone(),
            location: selector.location.clone(),
        },
        Ground::AgentsSlice if own => Why::AgentsSlice,
        Ground::BuiltIn if own => Why::BuiltIn,
        Ground::Selector(_) | Ground::AgentsSlice | Ground::BuiltIn => Why::Inherited {
            from: chain
                .get(selected.at)
                .map(|context| context.path.clone())
                .unwrap_or_default(),
        },
    }
}

fn alternatives(policy: &InForce, selected: &Selected<'_>) -> Vec<Alternative> {
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
