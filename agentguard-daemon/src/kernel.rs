//! The kernel side as the daemon sees it. The only module that uses aya.

mod attach;
pub mod btf;
pub mod error;
pub mod events;
mod limits;
mod link;
mod maps;
pub mod memory;
pub mod object;
mod pins;
mod place;
mod selection;
pub mod support;

use std::{io, path::PathBuf};

use agentguard_common::{
    audit::Counters,
    cgroup::Rank,
    executable::HashedFile,
    fact::{Choice, ExecutableSet},
    identity::{AgentId, FLAG_HISTORY_FULL, IdentityRecord},
    limit::{Bucket, BucketKey, LimitState, Limits},
    process::ProcessLabel,
};
use aya::{Ebpf, programs::Iter};

pub use self::{
    error::KernelError,
    events::{AuditRing, CgroupRing, ProcessRing},
    limits::LimiterEntry,
    place::FilePlace,
    selection::ProcessLosses,
};
use self::{maps::Maps, pins::Pins};
use crate::policy::compiled::Compiled;

/// Where the programs attach and where maps and links are pinned.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The cgroup that everything judged lives below.
    pub cgroup_root: PathBuf,
    /// A directory of a bpffs; one is mounted there if there is none.
    pub bpffs: PathBuf,
    /// Whether to go on without programs that cannot be attached, as long as packets that leave are
    /// judged.
    pub allow_degraded: bool,
}

/// The loaded programs and their maps.
pub struct Kernel {
    /// Holds the programs, and with them the links that are not pinned.
    ebpf: Ebpf,
    maps: Maps,
    pins: Pins,
    generation: u64,
    programs: Vec<String>,
}

/// What one generation needs besides the compiled tables.
#[derive(Debug)]
pub struct Generation<'a> {
    /// The compiled policy.
    pub compiled: &'a Compiled,
    /// Each identity, in the order of `compiled.identities`. Identities of earlier generations that are
    /// not listed are judged as unknown.
    pub identities: Vec<IdentityEntry>,
    /// Cgroup ids and whom they belong to; [`agentguard_common::cgroup::NO_CGROUP`] stands for what has
    /// no label.
    pub labels: Vec<(u64, CgroupLabel)>,
    /// What the automaton of `compiled` finds, with its choices.
    pub sets: Vec<SetEntry>,
    /// The files that have a hash that policy asks for.
    pub files: Vec<(FilePlace, HashedFile)>,
    /// Its limits.
    pub limiters: Vec<LimiterEntry>,
}

/// An identity in one generation.
#[derive(Clone, Debug)]
pub struct IdentityEntry {
    /// Its number.
    pub id: AgentId,
    /// How it is judged.
    pub record: IdentityRecord,
    /// Its variants.
    pub variants: Vec<Choice>,
}

/// A set of executables in one generation.
#[derive(Clone, Debug)]
pub struct SetEntry {
    /// The facts; which chain is filled in when it is written.
    pub set: ExecutableSet,
    /// Its chain.
    pub choices: Vec<Choice>,
}

/// Whom a cgroup, and all below it that has no label of its own, belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupLabel {
    /// Where no choice holds.
    pub identity: AgentId,
    /// What decided that.
    pub rank: Rank,
    /// Facts that hold for its processes.
    pub facts: u64,
    /// Identities that its processes may have instead, the best first. Links are filled in when it is
    /// written.
    pub choices: Vec<Choice>,
}

/// The kernel side with its rings, loaded.
pub struct Loaded {
    /// The programs and maps.
    pub kernel: Kernel,
    /// What was judged.
    pub audit: AuditRing,
    /// Cgroups that come and go.
    pub cgroups: CgroupRing,
    /// Processes that start programs.
    pub processes: ProcessRing,
    /// Programs that are not attached, and why.
    pub left_out: Vec<(String, KernelError)>,
}

/// What an enrolment scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enrolled {
    /// Descriptors of IPv4 and IPv6 sockets looked at.
    pub sockets: u64,
    /// Sockets that got another tag.
    pub retagged: u64,
}

impl Kernel {
    /// Loads and attaches the programs. Maps that an earlier daemon of the same ABI left pinned are
    /// adopted with the policy in them, and its programs are replaced in place; without a policy
    /// everything passes until [`Kernel::replace_policy`].
    ///
    /// Cgroup events are queued from here on: who scans after this misses none.
    ///
    /// # Errors
    ///
    /// If the kernel lacks something, or a program or map is refused. What was attached before stays
    /// attached.
    pub fn load(placement: &Placement) -> Result<Loaded, KernelError> {
        let pins = Pins::prepare(&placement.bpffs)?;
        let (mut ebpf, btf) = attach::load(placement, &pins)?;
        let (maps, rings) = Maps::take(&mut ebpf)?;
        let generation = maps.generation()?;
        let attached = attach::attach_all(&mut ebpf, &btf, placement, &pins)?;
        Ok(Loaded {
            kernel: Self {
                ebpf,
                maps,
                pins,
                generation,
                programs: attached.names,
            },
            left_out: attached.left_out,
            audit: rings.audit,
            cgroups: rings.cgroups,
            processes: rings.processes,
        })
    }

    /// The generation in force; 0 before the first.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Writes a generation into the idle slot and swaps it in with one store. Returns its number.
    ///
    /// # Errors
    ///
    /// If a map cannot be made or written: the old generation stays in force, whole.
    pub fn replace_policy(&mut self, next: &Generation<'_>) -> Result<u64, KernelError> {
        let number = self.generation + 1;
        self.maps.swap(number, next)?;
        self.generation = number;
        self.pins.remove_other_versions()?;
        Ok(number)
    }

    /// Labels a cgroup in the generation in force.
    ///
    /// # Errors
    ///
    /// If the label map is full.
    pub fn label(&mut self, cgroup_id: u64, label: &CgroupLabel) -> Result<(), KernelError> {
        self.maps.label(self.generation, cgroup_id, label)
    }

    /// Labels these cgroups and no others in the generation in force.
    ///
    /// # Errors
    ///
    /// If the label map is full.
    pub fn replace_labels(&mut self, labels: &[(u64, CgroupLabel)]) -> Result<(), KernelError> {
        self.maps.replace_labels(self.generation, labels)
    }

    /// Forgets a cgroup in both slots. Forgetting one that was never labelled is no error.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn unlabel(&mut self, cgroup_id: u64) -> Result<(), KernelError> {
        self.maps.unlabel(cgroup_id)
    }

    /// Forgets, in both slots, the cgroups that are not there any more.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn keep_labels(&mut self, is_there: impl Fn(u64) -> bool) -> Result<(), KernelError> {
        self.maps.keep_labels(is_there)
    }

    /// Gives every open socket the tag of the identity that its holder has now, unless its tag is
    /// restricted already. Takes a walk over all descriptors of all tasks.
    ///
    /// # Errors
    ///
    /// If the walk cannot be made.
    pub fn enrol(&mut self) -> Result<Enrolled, KernelError> {
        let (sockets_before, retagged_before) = self.maps.enrolled()?;
        self.walk(attach::ENROL)?;
        let (sockets, retagged) = self.maps.enrolled()?;
        Ok(Enrolled {
            sockets: sockets - sockets_before,
            retagged: retagged - retagged_before,
        })
    }

    /// Runs an iterator program to its end.
    fn walk(&mut self, name: &'static str) -> Result<(), KernelError> {
        let failed = |source| KernelError::Program {
            name: name.into(),
            source,
        };
        let program = self
            .ebpf
            .program_mut(name)
            .ok_or(KernelError::NoMap { name })?;
        let iterator: &mut Iter = program.try_into().map_err(failed)?;
        let id = iterator.attach().map_err(failed)?;
        let link = iterator.take_link(id).map_err(failed)?;
        let walk = |source| KernelError::Link {
            name: name.into(),
            what: "walking",
            source,
        };
        let mut file = link.into_file().map_err(io::Error::other).map_err(walk)?;
        // Reading drives the walk; the program writes nothing.
        io::copy(&mut file, &mut io::sink()).map_err(walk)?;
        Ok(())
    }

    /// Each labelled process and its label.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read them.
    pub fn processes(&self) -> Result<Vec<(u32, ProcessLabel)>, KernelError> {
        self.maps.selection.processes()
    }

    /// Labels a process that has no label yet; says whether it had none.
    ///
    /// # Errors
    ///
    /// If the map is full.
    pub fn label_process(&mut self, pid: u32, label: &ProcessLabel) -> Result<bool, KernelError> {
        self.maps.selection.label_process(pid, label)
    }

    /// Takes the label from a process. One that has none is no error.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn forget_process(&mut self, pid: u32) -> Result<(), KernelError> {
        self.maps.selection.forget_process(pid)
    }

    /// Gives running processes what `labels` says of their execs, in the generation in force. What was
    /// said of other execs is kept if `is_more`.
    ///
    /// # Errors
    ///
    /// If the walk cannot be made.
    pub fn relabel(
        &mut self,
        labels: &[(u64, ProcessLabel)],
        is_more: bool,
    ) -> Result<(), KernelError> {
        if !is_more {
            self.maps.selection.clear_relabels()?;
        }
        self.maps.selection.write_relabels(labels)?;
        // A child that is forked meanwhile takes its own from there.
        self.walk(attach::RELABEL)
    }

    /// What was lost of processes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read it.
    pub fn process_losses(&self) -> Result<ProcessLosses, KernelError> {
        self.maps.selection.losses()
    }

    /// Totals of an identity over all CPUs.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read them.
    pub fn counters(&self, identity: AgentId) -> Result<Counters, KernelError> {
        self.maps.counters(identity)
    }

    /// Lets no restricted identity open a flow, or lets all do it again.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn refuse_flows(&mut self, refuses: bool) -> Result<(), KernelError> {
        self.maps.mark_restricted(FLAG_HISTORY_FULL, refuses)
    }

    /// What was used of a limiter.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read it.
    pub fn limit_state(&self, number: u32) -> Result<LimitState, KernelError> {
        self.maps.limits.state(number)
    }

    /// Sets what was used of a limiter that no program takes from yet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn restore_limit(&mut self, number: u32, state: LimitState) -> Result<(), KernelError> {
        self.maps.limits.restore(number, state)
    }

    /// Sets what a limiter allows in the generation in force.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn set_limits(&mut self, number: u32, limits: Limits) -> Result<(), KernelError> {
        let slot = maps::slot_of(self.generation);
        self.maps.limits.set(slot, number, limits)
    }

    /// What is counted apart by process, cgroup or destination.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read it.
    pub fn buckets(&self) -> Result<Vec<(BucketKey, Bucket)>, KernelError> {
        self.maps.limits.buckets()
    }

    /// How many of them a limiter has.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read it.
    pub fn bucket_count(&self, number: u32) -> Result<u64, KernelError> {
        self.maps.limits.entries(number)
    }

    /// Removes one that is as good as new.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn remove_bucket(&mut self, key: &BucketKey) -> Result<(), KernelError> {
        self.maps.limits.remove_bucket(key)
    }

    /// Names of the attached programs, sorted.
    #[must_use]
    pub fn programs(&self) -> &[String] {
        &self.programs
    }

    /// Removes every pin of agentguard below `bpffs`: the end of enforcement once no daemon runs.
    /// Returns the links removed; none to remove is no error.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn detach(placement: &Placement) -> Result<Vec<PathBuf>, KernelError> {
        Pins::remove_all(&placement.bpffs)
    }
}
