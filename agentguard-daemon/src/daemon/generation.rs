//! A policy on its way into the kernel: read, bound to identities and cgroups, in force.

use std::path::PathBuf;

use agentguard_common::{
    fact::{Choice, ExecutableSet, NO_CHOICE},
    identity::{AgentId, FLAG_HISTORY_FULL, FLAG_RESTRICTED, IdentityRecord},
};
use jiff::Timestamp;

use super::{
    Daemon,
    clock::{boot_now_ns, deadline_ns},
    hashes::{self, Verified},
    host,
    labels::Labelled,
};
use crate::{
    audit::{AuditRecord, Names, PolicyLoaded},
    identity::registry::RegistryError,
    kernel::{Generation, IdentityEntry, KernelError, SetEntry, memory},
    limit::BookError,
    policy::{
        self, Diagnostics,
        compiled::{Compiled, PortClasses},
        selection,
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
    /// The executables that have a hash that it asks for.
    pub hashed: Vec<Verified>,
}

/// Why a compiled policy did not come into force.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Its identities got no numbers.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its limits got no numbers, or these cannot be saved.
    #[error(transparent)]
    Limits(#[from] BookError),
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

impl InForce {
    /// Index of the identity with number `id`, or of the one that it is a variant of.
    pub(super) fn index_of(&self, id: AgentId) -> Option<usize> {
        let index = self.ids.iter().position(|&known| known == id)?;
        Some(self.compiled.base(index))
    }
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
            files: policy_files,
            warnings: _,
        } = candidate;
        let names = compiled
            .identities
            .iter()
            .map(|identity| identity.name.as_str());
        let ids = self.registry.assign(names)?;
        let (now, boot_ns) = (Timestamp::now(), boot_now_ns());
        let limits = self.limits.prepare(&compiled, &ids, now, boot_ns)?;
        self.restore_quotas(&limits)?;
        let refuses = *self.refuses.borrow();
        let records = compiled
            .identities
            .iter()
            .zip(&ids)
            .enumerate()
            .map(|(index, (identity, &id))| {
                // A variant is the same identity with other rules.
                let base = compiled.base(index);
                let record = identity.record(deadline_ns(identity.expires, now, boot_ns));
                let (mut flags, narrower) = limits.of_identity(base);
                if refuses && record.flags & FLAG_RESTRICTED != 0 {
                    flags |= FLAG_HISTORY_FULL;
                }
                IdentityEntry {
                    id,
                    record: IdentityRecord {
                        limiter: ids.get(base).copied().unwrap_or(id),
                        narrower,
                        flags: record.flags | flags,
                        ..record
                    },
                    variants: encode(&identity.variants, &ids),
                }
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
        let Labelled { labels, places } = self.labels_of_all(&compiled, &ids)?;
        let hashed = hashes::verify(&compiled.selection.hashes);
        let number = self.kernel.generation() + 1;
        // Before the swap: its first event may come at once.
        self.trail
            .learn_generation(number, Names::new(&compiled, &ids));
        let swapped = self.kernel.replace_policy(&Generation {
            compiled: &compiled,
            identities: records,
            labels,
            sets,
            files: hashed.iter().map(|it| (it.place, it.file)).collect(),
            limiters: limits.entries(),
        });
        match swapped {
            Ok(_) => {}
            // It is in force; what failed is clearing away older pins.
            Err(error) if self.kernel.generation() == number => {
                tracing::warn!(%error, "older pins stay");
            }
            Err(error) => return Err(error.into()),
        }
        self.take_places(places);
        self.take_limits(limits);
        self.note(AuditRecord::PolicyLoaded(PolicyLoaded {
            time: now,
            generation: number,
            identities: compiled.identities.len(),
            rules: compiled.rule_sources.len(),
        }));
        compiled.addresses = Vec::new();
        compiled.rules = Vec::new();
        compiled.rule_sources = Vec::new();
        compiled.ports = PortClasses {
            tcp: Vec::new(),
            udp: Vec::new(),
        };
        self.in_force = Some(
            InForce {
                generation: number,
                compiled,
                ids,
                files: policy_files,
                hashed,
            }
            .into(),
        );
        self.relabel_processes();
        memory::give_back();
        self.enrolment.want();
        Ok(number)
    }
}

/// A chain of choices with the numbers of its identities.
pub(super) fn encode(choices: &[selection::Choice], ids: &[AgentId]) -> Vec<Choice> {
    choices
        .iter()
        .filter_map(|choice| Some(choice.encode(*ids.get(choice.identity)?, NO_CHOICE)))
        .collect()
}
