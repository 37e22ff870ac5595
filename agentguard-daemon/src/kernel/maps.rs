//! A typed handle for each map. Here, and nowhere else in the daemon, stands a map's name.

use std::collections::HashSet;

use agentguard_common::{
    audit::Counters,
    capacity::{MAX_CGROUPS, MAX_IDENTITIES},
    cgroup::{Label, LabelKey},
    identity::{AgentId, FLAG_PRESENT, FLAG_RESTRICTED, IdentityRecord},
    policy::RuleKey,
};
use aya::{
    Ebpf,
    maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf,
        lpm_trie,
    },
};

use super::{
    CgroupLabel, Generation, IdentityEntry, KernelError, events, limits::LimitMaps,
    selection::SelectionMaps,
};
use crate::policy::compiled::{AddressClass, Compiled};

/// Flag of an LPM trie, which the kernel wants always (`include/uapi/linux/bpf.h`).
const BPF_F_NO_PREALLOC: u32 = 1;

type Hosts = HashMap<MapData, [u8; 16], u32>;
type Addresses = LpmTrie<MapData, [u8; 16], u32>;
type Rules = HashMap<MapData, RuleKey, u64>;
type PortTable = [u16; 65_536];

/// The maps that the daemon reads and writes.
pub(super) struct Maps {
    generation: Array<MapData, u64>,
    hosts: ArrayOfMaps<MapData, Hosts>,
    addresses: ArrayOfMaps<MapData, Addresses>,
    ports: Array<MapData, PortTable>,
    rules: ArrayOfMaps<MapData, Rules>,
    identities: Array<MapData, IdentityRecord>,
    cgroups: HashMap<MapData, LabelKey, Label>,
    counters: PerCpuArray<MapData, Counters>,
    enrolled: Array<MapData, u64>,
    pub(super) selection: SelectionMaps,
    pub(super) limits: LimitMaps,
    /// The cgroups labelled in each slot, so that the idle one can be brought up to date.
    labelled: [HashSet<u64>; 2],
}

/// Names of the maps that are pinned: their contents outlive the daemon.
pub(super) const PINNED: [&str; 26] = [
    "GENERATION",
    "HOSTS",
    "ADDRESSES",
    "PORTS",
    "RULES",
    "IDENTITIES",
    "CGROUPS",
    "COUNTERS",
    "TAGS",
    "AUDIT_EVENTS",
    "EVENT_BUDGETS",
    "TRANSITIONS",
    "BYTE_CLASSES",
    "EXECUTABLE_SETS",
    "CHOICES",
    "USERS",
    "HASHED_FILES",
    "PROCESSES",
    "RELABELS",
    "PROCESS_COUNTS",
    "PROCESS_EVENTS",
    "LIMITS",
    "LIMIT_STATES",
    "BUCKETS",
    "REMOVED_BUCKETS",
    "RULE_LIMITERS",
];

/// The rings, for who reads them.
pub(super) struct Rings {
    pub(super) audit: events::AuditRing,
    pub(super) cgroups: events::CgroupRing,
    pub(super) processes: events::ProcessRing,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    ///
    /// If one is missing or of another type.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<(Self, Rings), KernelError> {
        let generation: Array<MapData, u64> = take(ebpf, "GENERATION")?;
        let is_adopted = generation.get(&0, 0).map_err(of("GENERATION"))? != 0;
        let mut maps = Self {
            generation,
            hosts: take(ebpf, "HOSTS")?,
            addresses: take(ebpf, "ADDRESSES")?,
            ports: take(ebpf, "PORTS")?,
            rules: take(ebpf, "RULES")?,
            identities: take(ebpf, "IDENTITIES")?,
            cgroups: take(ebpf, "CGROUPS")?,
            counters: take(ebpf, "COUNTERS")?,
            enrolled: take(ebpf, "ENROLLED")?,
            selection: SelectionMaps::take(ebpf)?,
            limits: LimitMaps::take(ebpf, is_adopted)?,
            labelled: [HashSet::new(), HashSet::new()],
        };
        for key in maps.cgroups.keys() {
            let LabelKey { cgroup_id, slot } = key.map_err(of("CGROUPS"))?;
            maps.labelled[usize::from(slot == 1)].insert(cgroup_id);
        }
        let mut ring = |name| take::<RingBuf<MapData>>(ebpf, name);
        let rings = Rings {
            audit: events::AuditRing(ring("AUDIT_EVENTS")?),
            cgroups: events::CgroupRing(ring("CGROUP_EVENTS")?),
            processes: events::ProcessRing(ring("PROCESS_EVENTS")?),
        };
        Ok((maps, rings))
    }

    /// The generation in force, 0 for none.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read it.
    pub(super) fn generation(&self) -> Result<u64, KernelError> {
        self.generation.get(&0, 0).map_err(of("GENERATION"))
    }

    /// Writes `next` into the idle slot and makes it the generation `number`.
    ///
    /// # Errors
    ///
    /// If a map cannot be made or written. The generation in force is then untouched.
    pub(super) fn swap(&mut self, number: u64, next: &Generation<'_>) -> Result<(), KernelError> {
        let slot = slot_of(number);
        let (hosts, addresses) = addresses_of(next.compiled)?;
        let rules = rules_of(next.compiled)?;
        self.write_ports(slot, next.compiled)?;
        self.selection.write(slot, next)?;
        self.selection.write_files(slot, &next.files)?;
        self.limits.write(slot, &next.limiters)?;
        self.write_identities(slot, &next.identities)?;
        self.write_labels(slot, &next.labels)?;
        self.hosts.set(slot, &hosts, 0).map_err(of("HOSTS"))?;
        self.addresses
            .set(slot, &addresses, 0)
            .map_err(of("ADDRESSES"))?;
        self.rules.set(slot, &rules, 0).map_err(of("RULES"))?;
        self.generation
            .set(0, number, 0)
            .map_err(of("GENERATION"))?;
        // A program that read the former number may still be at work in the former slot, which the
        // next swap overwrites. The kernel waits for all running programs before it returns from a
        // write to a map of maps (`maybe_wait_bpf_programs`), so one more such write makes sure.
        self.rules.set(slot, &rules, 0).map_err(of("RULES"))
    }

    fn write_ports(&mut self, slot: u32, compiled: &Compiled) -> Result<(), KernelError> {
        for (offset, classes) in [(0, &compiled.ports.tcp), (1, &compiled.ports.udp)] {
            let table: &PortTable =
                classes
                    .as_slice()
                    .try_into()
                    .map_err(|_error| KernelError::Unsupported {
                        what: format!("{} ports", classes.len()),
                    })?;
            self.ports
                .set(slot * 2 + offset, table, 0)
                .map_err(of("PORTS"))?;
        }
        Ok(())
    }

    fn write_identities(
        &mut self,
        slot: u32,
        identities: &[IdentityEntry],
    ) -> Result<(), KernelError> {
        let mut records = vec![IdentityRecord::default(); MAX_IDENTITIES as usize];
        for IdentityEntry {
            id,
            record,
            variants,
        } in identities
        {
            let variants = self.selection.chain(slot, variants)?;
            let entry = records
                .get_mut(id.0 as usize)
                .ok_or_else(|| KernelError::Unsupported {
                    what: format!("more than {MAX_IDENTITIES} identities in one boot"),
                })?;
            *entry = IdentityRecord {
                flags: record.flags | FLAG_PRESENT,
                variants,
                ..*record
            };
        }
        for (index, record) in (slot * MAX_IDENTITIES..).zip(records) {
            self.identities
                .set(index, record, 0)
                .map_err(of("IDENTITIES"))?;
        }
        Ok(())
    }

    /// Sets or clears `flag` of all identities that are restricted, in the generation in force.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub(super) fn mark_restricted(&mut self, flag: u32, is_set: bool) -> Result<(), KernelError> {
        let start = slot_of(self.generation()?) * MAX_IDENTITIES;
        for index in start..start + MAX_IDENTITIES {
            let mut record = self.identities.get(&index, 0).map_err(of("IDENTITIES"))?;
            if record.flags & FLAG_RESTRICTED == 0 {
                continue;
            }
            record.flags = if is_set {
                record.flags | flag
            } else {
                record.flags & !flag
            };
            // No other word changes: a program that reads it meanwhile sees a whole record.
            self.identities
                .set(index, record, 0)
                .map_err(of("IDENTITIES"))?;
        }
        Ok(())
    }

    fn write_labels(
        &mut self,
        slot: u32,
        labels: &[(u64, CgroupLabel)],
    ) -> Result<(), KernelError> {
        if labels.len() > MAX_CGROUPS as usize / 2 {
            return Err(KernelError::Unsupported {
                what: format!(
                    "{} labelled cgroups; the most is {}",
                    labels.len(),
                    MAX_CGROUPS / 2
                ),
            });
        }
        let wanted: HashSet<u64> = labels.iter().map(|(cgroup_id, _)| *cgroup_id).collect();
        let stale: Vec<u64> = self.labelled[slot as usize]
            .difference(&wanted)
            .copied()
            .collect();
        for cgroup_id in stale {
            self.remove_label(slot, cgroup_id)?;
        }
        for (cgroup_id, label) in labels {
            self.insert_label(slot, *cgroup_id, label)?;
        }
        Ok(())
    }

    /// Labels these cgroups and no others in the generation in force.
    ///
    /// # Errors
    ///
    /// If the map is full.
    pub(super) fn replace_labels(
        &mut self,
        generation: u64,
        labels: &[(u64, CgroupLabel)],
    ) -> Result<(), KernelError> {
        self.write_labels(slot_of(generation), labels)
    }

    /// Labels a cgroup in the generation in force.
    ///
    /// # Errors
    ///
    /// If the map is full.
    pub(super) fn label(
        &mut self,
        generation: u64,
        cgroup_id: u64,
        label: &CgroupLabel,
    ) -> Result<(), KernelError> {
        self.insert_label(slot_of(generation), cgroup_id, label)
    }

    /// Forgets a cgroup in both slots.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub(super) fn unlabel(&mut self, cgroup_id: u64) -> Result<(), KernelError> {
        for slot in [0, 1] {
            if self.labelled[slot as usize].contains(&cgroup_id) {
                self.remove_label(slot, cgroup_id)?;
            }
        }
        Ok(())
    }

    /// Forgets, in both slots, the cgroups that are not there any more.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub(super) fn keep_labels(
        &mut self,
        is_there: impl Fn(u64) -> bool,
    ) -> Result<(), KernelError> {
        let [first, second] = &self.labelled;
        let ended: Vec<u64> = first.union(second).copied().collect();
        for cgroup_id in ended.into_iter().filter(|&id| !is_there(id)) {
            self.unlabel(cgroup_id)?;
        }
        Ok(())
    }

    fn insert_label(
        &mut self,
        slot: u32,
        cgroup_id: u64,
        label: &CgroupLabel,
    ) -> Result<(), KernelError> {
        let label = Label {
            facts: label.facts,
            identity: label.identity,
            rank: label.rank as u32,
            choices: self.selection.chain(slot, &label.choices)?,
            reserved: 0,
        };
        let key = LabelKey {
            cgroup_id,
            slot: slot.into(),
        };
        self.cgroups.insert(key, label, 0).map_err(of("CGROUPS"))?;
        self.labelled[slot as usize].insert(cgroup_id);
        Ok(())
    }

    fn remove_label(&mut self, slot: u32, cgroup_id: u64) -> Result<(), KernelError> {
        self.cgroups
            .remove(&LabelKey {
                cgroup_id,
                slot: slot.into(),
            })
            .map_err(of("CGROUPS"))?;
        self.labelled[slot as usize].remove(&cgroup_id);
        Ok(())
    }

    /// Totals of an identity over all CPUs.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read them.
    pub(super) fn counters(&self, identity: AgentId) -> Result<Counters, KernelError> {
        let values = self.counters.get(&identity.0, 0).map_err(of("COUNTERS"))?;
        Ok(values
            .iter()
            .fold(Counters::default(), |sum, cpu| Counters {
                events_produced: sum.events_produced + cpu.events_produced,
                events_dropped: sum.events_dropped + cpu.events_dropped,
                events_over_budget: sum.events_over_budget + cpu.events_over_budget,
                allowed: sum.allowed + cpu.allowed,
                denied: sum.denied + cpu.denied,
                would_deny: sum.would_deny + cpu.would_deny,
                closed: sum.closed + cpu.closed,
                bytes_out: sum.bytes_out + cpu.bytes_out,
                bytes_in: sum.bytes_in + cpu.bytes_in,
            }))
    }

    /// Sockets seen and retagged by enrolment scans so far.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read them.
    pub(super) fn enrolled(&self) -> Result<(u64, u64), KernelError> {
        let read = |index| self.enrolled.get(&index, 0).map_err(of("ENROLLED"));
        Ok((read(0)?, read(1)?))
    }
}

/// The slot of a generation: its low bit.
pub(super) fn slot_of(generation: u64) -> u32 {
    u32::from(generation & 1 == 1)
}

/// A hash of single addresses and a trie of shorter prefixes, of just the sizes that `compiled` needs.
fn addresses_of(compiled: &Compiled) -> Result<(Hosts, Addresses), KernelError> {
    let single = |entry: &&AddressClass| entry.length == 128;
    let count = compiled.addresses.iter().filter(single).count();
    let mut hosts = Hosts::create(size(count)?, 0).map_err(of("HOSTS"))?;
    let mut trie = Addresses::create(size(compiled.addresses.len() - count)?, BPF_F_NO_PREALLOC)
        .map_err(of("ADDRESSES"))?;
    for entry in &compiled.addresses {
        if single(&entry) {
            hosts
                .insert(entry.address.0, entry.class, 0)
                .map_err(of("HOSTS"))?;
        } else {
            let key = lpm_trie::Key::new(entry.length.into(), entry.address.0);
            trie.insert(&key, entry.class, 0).map_err(of("ADDRESSES"))?;
        }
    }
    Ok((hosts, trie))
}

/// A hash of just the size that `compiled` needs.
fn rules_of(compiled: &Compiled) -> Result<Rules, KernelError> {
    let mut rules = Rules::create(size(compiled.rules.len())?, 0).map_err(of("RULES"))?;
    for (key, entry) in &compiled.rules {
        rules.insert(key, entry.to_word(), 0).map_err(of("RULES"))?;
    }
    Ok(rules)
}

/// Capacity for `entries`; a map cannot have none.
pub(super) fn size(entries: usize) -> Result<u32, KernelError> {
    u32::try_from(entries.max(1)).map_err(|_error| KernelError::Unsupported {
        what: format!("a map of {entries} entries"),
    })
}

pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::NoMap { name })?;
    T::try_from(map).map_err(of(name))
}

pub(super) fn of(name: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |source| KernelError::Map { name, source }
}
