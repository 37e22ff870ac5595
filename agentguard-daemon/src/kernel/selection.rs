//! The maps that say how processes become identities, and what each process is.

use std::collections::HashMap as Table;

use agentguard_common::{
    capacity::{MAX_CHOICES, MAX_EXECUTABLE_SETS, MAX_HASHED_FILES},
    executable::{FileKey, HashedFile},
    fact::{Choice, ExecutableSet, MAX_CHAIN, NO_CHOICE, UserKey},
    process::ProcessLabel,
};
use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, MapData, MapError},
};

use super::{
    FilePlace, Generation, KernelError,
    maps::{of, size, take},
};

type Transitions = HashMap<MapData, u32, u32>;

/// Chains that a slot holds already, so that equal ones are written once.
#[derive(Debug)]
struct Chains {
    first: Table<Vec<Choice>, u32>,
    /// Number of the next choice; 0 is no choice.
    next: u32,
}

impl Default for Chains {
    fn default() -> Self {
        Self {
            first: Table::new(),
            next: NO_CHOICE + 1,
        }
    }
}

/// The maps, and what is in them.
pub(super) struct SelectionMaps {
    transitions: ArrayOfMaps<MapData, Transitions>,
    byte_classes: Array<MapData, [u8; 256]>,
    sets: Array<MapData, ExecutableSet>,
    choices: Array<MapData, Choice>,
    users: HashMap<MapData, UserKey, u64>,
    files: HashMap<MapData, FileKey, HashedFile>,
    processes: HashMap<MapData, u32, ProcessLabel>,
    relabels: HashMap<MapData, u64, ProcessLabel>,
    counts: Array<MapData, u64>,
    chains: [Chains; 2],
}

/// What was lost of processes since the programs were loaded first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessLosses {
    /// Labels that found the map full.
    pub labels: u64,
    /// Execs that found the ring full.
    pub events: u64,
}

impl SelectionMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            transitions: take(ebpf, "TRANSITIONS")?,
            byte_classes: take(ebpf, "BYTE_CLASSES")?,
            sets: take(ebpf, "EXECUTABLE_SETS")?,
            choices: take(ebpf, "CHOICES")?,
            users: take(ebpf, "USERS")?,
            files: take(ebpf, "HASHED_FILES")?,
            processes: take(ebpf, "PROCESSES")?,
            relabels: take(ebpf, "RELABELS")?,
            counts: take(ebpf, "PROCESS_COUNTS")?,
            chains: Default::default(),
        })
    }

    /// Writes the selectors of a generation into its idle slot. Its chains start anew.
    pub(super) fn write(&mut self, slot: u32, next: &Generation<'_>) -> Result<(), KernelError> {
        self.chains[slot as usize] = Chains::default();
        let selection = &next.compiled.selection;
        let transitions = &selection.automaton.transitions;
        let mut table =
            Transitions::create(size(transitions.len())?, 0).map_err(of("TRANSITIONS"))?;
        for (key, value) in transitions {
            table.insert(key, value, 0).map_err(of("TRANSITIONS"))?;
        }
        self.transitions
            .set(slot, &table, 0)
            .map_err(of("TRANSITIONS"))?;
        self.byte_classes
            .set(slot, selection.automaton.classes, 0)
            .map_err(of("BYTE_CLASSES"))?;
        if next.sets.len() >= MAX_EXECUTABLE_SETS as usize {
            return Err(KernelError::Unsupported {
                what: format!("{} sets of executables", next.sets.len()),
            });
        }
        for (number, set) in (1..).zip(&next.sets) {
            let set = ExecutableSet {
                choices: self.chain(slot, &set.choices)?,
                ..set.set
            };
            self.sets
                .set(slot * MAX_EXECUTABLE_SETS + number, set, 0)
                .map_err(of("EXECUTABLE_SETS"))?;
        }
        self.write_users(slot, next)
    }

    fn write_users(&mut self, slot: u32, next: &Generation<'_>) -> Result<(), KernelError> {
        let stale = keys_of_slot(self.users.keys(), |key: &UserKey| key.slot == slot, "USERS")?;
        for key in stale {
            self.users.remove(&key).map_err(of("USERS"))?;
        }
        for user in &next.compiled.selection.users {
            let key = UserKey {
                id: user.id,
                kind: user.kind,
                slot,
                reserved: 0,
            };
            self.users.insert(key, user.facts, 0).map_err(of("USERS"))?;
        }
        Ok(())
    }

    /// Number of the first choice of a chain, which is written if it is new.
    ///
    /// # Errors
    ///
    /// If it is too long, or there is no room.
    pub(super) fn chain(&mut self, slot: u32, chain: &[Choice]) -> Result<u32, KernelError> {
        if chain.is_empty() {
            return Ok(NO_CHOICE);
        }
        let chains = &mut self.chains[slot as usize];
        if let Some(&first) = chains.first.get(chain) {
            return Ok(first);
        }
        let length = u32::try_from(chain.len()).unwrap_or(u32::MAX);
        if length > MAX_CHAIN {
            return Err(KernelError::Unsupported {
                what: format!("{length} identities for one process to choose from"),
            });
        }
        if chains.next + length > MAX_CHOICES {
            return Err(KernelError::Unsupported {
                what: format!("more than {MAX_CHOICES} conditions on identities"),
            });
        }
        let first = chains.next;
        for (number, choice) in (first..).zip(chain) {
            let is_last = number + 1 == first + length;
            let choice = Choice {
                next: if is_last { NO_CHOICE } else { number + 1 },
                ..*choice
            };
            self.choices
                .set(slot * MAX_CHOICES + number, choice, 0)
                .map_err(of("CHOICES"))?;
        }
        chains.next += length;
        chains.first.insert(chain.to_vec(), first);
        Ok(first)
    }

    /// Replaces the files of a slot that are known by their hash.
    pub(super) fn write_files(
        &mut self,
        slot: u32,
        files: &[(FilePlace, HashedFile)],
    ) -> Result<(), KernelError> {
        if files.len() > MAX_HASHED_FILES as usize / 2 {
            return Err(KernelError::Unsupported {
                what: format!("{} files known by their hash", files.len()),
            });
        }
        let key_of = |place: &FilePlace| FileKey {
            inode: place.inode,
            device: place.device,
            slot,
        };
        let of_slot = |key: &FileKey| key.slot == slot;
        let mut stale = keys_of_slot(self.files.keys(), of_slot, "HASHED_FILES")?;
        stale.retain(|key| !files.iter().any(|(place, _)| key_of(place) == *key));
        for key in stale {
            self.files.remove(&key).map_err(of("HASHED_FILES"))?;
        }
        for (place, file) in files {
            self.files
                .insert(key_of(place), file, 0)
                .map_err(of("HASHED_FILES"))?;
        }
        Ok(())
    }

    /// Each labelled process.
    pub(super) fn processes(&self) -> Result<Vec<(u32, ProcessLabel)>, KernelError> {
        self.processes
            .iter()
            .map(|entry| entry.map_err(of("PROCESSES")))
            .collect()
    }

    /// Labels a process that has no label. Whether it had none.
    pub(super) fn label_process(
        &mut self,
        pid: u32,
        label: &ProcessLabel,
    ) -> Result<bool, KernelError> {
        const BPF_NOEXIST: u64 = 1;
        match self.processes.insert(pid, label, BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Ok(false)
            }
            Err(error) => Err(of("PROCESSES")(error)),
        }
    }

    /// Takes the label from a process.
    pub(super) fn forget_process(&mut self, pid: u32) -> Result<(), KernelError> {
        match self.processes.remove(&pid) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(of("PROCESSES")(error)),
        }
    }

    /// Forgets what the relabelling program hands out.
    pub(super) fn clear_relabels(&mut self) -> Result<(), KernelError> {
        for key in keys_of_slot(self.relabels.keys(), |_| true, "RELABELS")? {
            self.relabels.remove(&key).map_err(of("RELABELS"))?;
        }
        Ok(())
    }

    /// Adds to what the relabelling program hands out.
    pub(super) fn write_relabels(
        &mut self,
        labels: &[(u64, ProcessLabel)],
    ) -> Result<(), KernelError> {
        for (exec_id, label) in labels {
            self.relabels
                .insert(exec_id, label, 0)
                .map_err(of("RELABELS"))?;
        }
        Ok(())
    }

    /// What was lost of processes.
    pub(super) fn losses(&self) -> Result<ProcessLosses, KernelError> {
        let read = |index| self.counts.get(&index, 0).map_err(of("PROCESS_COUNTS"));
        Ok(ProcessLosses {
            labels: read(1)?,
            events: read(2)?,
        })
    }
}

fn keys_of_slot<K>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    wanted: impl Fn(&K) -> bool,
    name: &'static str,
) -> Result<Vec<K>, KernelError> {
    let mut found = Vec::new();
    for key in keys {
        let key = key.map_err(of(name))?;
        if wanted(&key) {
            found.push(key);
        }
    }
    Ok(found)
}
