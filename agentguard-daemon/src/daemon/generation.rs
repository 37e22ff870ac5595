//! A policy on its way into the kernel: read, bound to identities and cgroups, in force.

use std::{collections::HashMap, path::PathBuf};

use agentguard_common::{
    fact::{Choice, ExecutableSet, NO_CHOICE},
    identity::AgentId,
};
use jiff::Timestamp;

use super::{
    Daemon,
    clock::{boot_now_ns, deadline_ns},
    host,
};
use crate::{
    audit::{AuditRecord, Names, PolicyLoaded},
    identity::{
        cgroups,
        context::Context,
        execution::Matcher,
        registry::RegistryError,
        select::{Ground, select},
    },
    kernel::{CgroupLabel, Generation, IdentityEntry, KernelError, SetEntry, memory},
    policy::{
        self, Diagnostics,
        compiled::{Compiled, PortClasses},
        selection::{self, Automaton},
    },
};

/// A policy that was read and compiled, and nothing more.
#[derive(Debug)]
pub struct Candidate {
    compiled: Compiled,
    files: Vec<PathBuf>,
    /// What is legal but hardly meant.
    pub warnings: Diagnostics,
}

/// The policy in force, less what only the kernel needs.
#[derive(Debug)]
pub struct InForce {
    /// Its generation.
    pub generation: u64,
    /// Its identities and selectors; the tables are empty.
    pub compiled: Compiled,
    /// Numbers of the identities, in their order.
    pub ids: Vec<AgentId>,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// What it makes of executables.
    pub matcher: Matcher,
}

/// Why a compiled policy did not come into force.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Its identities got no numbers.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The kernel refused it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The cgroup tree cannot be read.
    #[error("cannot read the cgroups: {0}")]
    Cgroups(#[from] std::io::Error),
}

/// Reads and compiles the policy of `directories`.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn read(directories: &[PathBuf]) -> Result<Candidate, Diagnostics> {
    let sources = policy::read_directories(directories);
    let files = sources
        .files
        .iter()
        .map(|source| source.path().to_owned())
        .collect();
    let parsed = policy::load(&sources)?;
    let facts = host::facts(&parsed);
    Ok(Candidate {
        compiled: policy::compile(&parsed, &facts)?,
        files,
        warnings: policy::review(&parsed, &facts, Timestamp::now()),
    })
}

impl Daemon {
    /// Puts `candidate` in force for the cgroups that are now. On an error the old policy stays.
    ///
    /// # Errors
    ///
    /// If it does not fit, or the kernel refuses.
    pub(super) fn put_in_force(&mut self, candidate: Candidate) -> Result<u64, SwapError> {
        let Candidate {
            mut compiled,
            files,
            warnings: _,
        } = candidate;
        let names = compiled
            .identities
            .iter()
            .map(|identity| identity.name.as_str());
        let ids = self.registry.assign(names)?;
        let (now, boot_ns) = (Timestamp::now(), boot_now_ns());
        let records = compiled
            .identities
            .iter()
            .zip(&ids)
            .map(|(identity, &id)| IdentityEntry {
                id,
                record: identity.record(deadline_ns(identity.expires, now, boot_ns)),
                variants: encode(&identity.variants, &ids),
            })
            .collect();
        let sets = compiled
            .selection
            .sets
            .iter()
            .map(|set| SetEntry {
                set: ExecutableSet {
                    own_facts: set.own_facts,
                    parent_facts: set.parent_facts,
                    ..ExecutableSet::default()
                },
                choices: encode(&set.choices, &ids),
            })
            .collect();
        let mut paths = HashMap::new();
        let mut labels = Vec::new();
        cgroups::walk(&self.cgroup_root, &mut |cgroup, _| {
            labels.extend(own_label(&compiled, &ids, &cgroup.path).map(|label| (cgroup.id, label)));
            paths.insert(cgroup.id, cgroup.path.as_slice().into());
        })?;
        let number = self.kernel.generation() + 1;
        // Before the swap: its first event may come at once.
        self.trail
            .learn_generation(number, Names::new(&compiled, &ids));
        let swapped = self.kernel.replace_policy(&Generation {
            compiled: &compiled,
            identities: records,
            labels,
            sets,
            files: Vec::new(),
        });
        match swapped {
            Ok(_) => {}
            // It is in force; what failed is clearing away older pins.
            Err(error) if self.kernel.generation() == number => {
                tracing::warn!(%error, "older pins stay");
            }
            Err(error) => return Err(error.into()),
        }
        self.paths.replace(paths);
        self.note(AuditRecord::PolicyLoaded(PolicyLoaded {
            time: now,
            generation: number,
            identities: compiled.identities.len(),
            rules: compiled.rule_sources.len(),
        }));
        compiled.addresses = Vec::new();
        compiled.rules = Vec::new();
        compiled.rule_sources = Vec::new();
        let matcher = Matcher::new(&compiled.selection);
        compiled.selection.automaton = Automaton::default();
        compiled.ports = PortClasses {
            tcp: Vec::new(),
            udp: Vec::new(),
        };
        self.in_force = Some(
            InForce {
                generation: number,
                compiled,
                ids,
                files,
                matcher,
            }
            .into(),
        );
        self.relabel_processes();
        memory::give_back();
        self.enrolment.want();
        Ok(number)
    }
}

/// The label of the cgroup at `path`, if it is another one than that of the cgroup above it.
pub(super) fn own_label(compiled: &Compiled, ids: &[AgentId], path: &[u8]) -> Option<CgroupLabel> {
    let chain = Context::chain_of_path(&String::from_utf8_lossy(path));
    let chain: Vec<&Context> = chain.iter().collect();
    let selected = select(compiled, &chain);
    let (_, above) = chain.split_last()?;
    let inherited = if above.is_empty() {
        matches!(selected.ground, Ground::Nothing) && selected.choices.is_empty()
    } else {
        !selected.differs(&select(compiled, above))
    };
    let identity = *ids.get(selected.index).filter(|_| !inherited)?;
    Some(CgroupLabel {
        identity,
        rank: selected.rank,
        facts: selected.facts,
        choices: encode(&selected.choices, ids),
    })
}

/// A chain of choices with the numbers of its identities.
pub(super) fn encode(choices: &[selection::Choice], ids: &[AgentId]) -> Vec<Choice> {
    choices
        .iter()
        .filter_map(|choice| Some(choice.encode(*ids.get(choice.identity)?, NO_CHOICE)))
        .collect()
}
