//! The kernel side as the daemon sees it. The only module that uses aya.

pub mod btf;
pub mod error;
pub mod events;
pub mod object;
pub mod support;

use std::path::PathBuf;

use agentguard_common::{audit::Counters, identity::AgentId, identity::IdentityRecord};

pub use self::{
    error::KernelError,
    events::{AuditRing, CgroupRing},
    object::OBJECT,
};
use crate::policy::compiled::Compiled;

/// Where the programs attach and where maps and links are pinned.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The cgroup that everything judged lives below.
    pub cgroup_root: PathBuf,
    /// A directory of a bpffs; one is mounted there if there is none.
    pub bpffs: PathBuf,
}

/// The loaded programs and their maps.
#[derive(Debug)]
pub struct Kernel {
    generation: u64,
}

/// What one generation needs besides the compiled tables.
#[derive(Debug)]
pub struct Generation<'a> {
    /// The compiled policy.
    pub compiled: &'a Compiled,
    /// Id and record of each identity, in the order of `compiled.identities`. Identities of earlier
    /// generations that are not listed are judged as unknown.
    pub identities: Vec<(AgentId, IdentityRecord)>,
    /// Cgroup ids and whom they belong to.
    pub labels: Vec<(u64, AgentId)>,
}

/// What an enrolment scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enrolled {
    /// Sockets looked at.
    pub sockets: u64,
    /// Sockets that got another tag.
    pub retagged: u64,
}

impl Kernel {
    /// Loads the programs, or adopts the pinned maps of an earlier daemon of the same ABI and
    /// replaces its programs in place. Nothing is judged differently before
    /// [`Kernel::replace_policy`]: with no generation yet, everything is allowed.
    ///
    /// Attach first, scan after: events of new cgroups are queued from here on.
    pub fn load(placement: &Placement) -> Result<(Self, AuditRing, CgroupRing), KernelError> {
        let _ = placement;
        Err(KernelError::Unsupported {
            what: "loading".into(),
        })
    }

    /// The generation in force; 0 before the first.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Writes a generation into the idle slot and swaps it in with one store. On an error the old
    /// one stays in force, whole. Returns the number of the new one.
    pub fn replace_policy(&mut self, next: &Generation<'_>) -> Result<u64, KernelError> {
        let _ = next;
        Err(KernelError::Unsupported {
            what: "policy".into(),
        })
    }

    /// Labels a cgroup in the generation in force.
    pub fn label(&mut self, cgroup_id: u64, identity: AgentId) -> Result<(), KernelError> {
        let _ = (cgroup_id, identity);
        Ok(())
    }

    /// Forgets a cgroup in both slots. Forgetting one that was never labelled is no error.
    pub fn unlabel(&mut self, cgroup_id: u64) -> Result<(), KernelError> {
        let _ = cgroup_id;
        Ok(())
    }

    /// Gives every open socket the tag of the identity that its holder has now, unless its tag is
    /// restricted already.
    pub fn enrol(&mut self) -> Result<Enrolled, KernelError> {
        Ok(Enrolled::default())
    }

    /// Totals of an identity over all CPUs.
    pub fn counters(&self, identity: AgentId) -> Result<Counters, KernelError> {
        let _ = identity;
        Ok(Counters::default())
    }

    /// Names of the attached programs.
    #[must_use]
    pub fn programs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Removes every pin of agentguard below `bpffs`: the end of enforcement. Returns what it
    /// removed; nothing to remove is no error.
    pub fn detach(placement: &Placement) -> Result<Vec<PathBuf>, KernelError> {
        let _ = placement;
        Ok(Vec::new())
    }
}
