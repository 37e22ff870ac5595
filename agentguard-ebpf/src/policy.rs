//! The policy in force: which slot is active, and its tables.

use core::arch::asm;

use agentguard_common::{
    capacity::MAX_IDENTITIES,
    connection::{Address, Protocol},
    identity::{AgentId, FLAG_PRESENT, IdentityRecord},
    policy::{RuleEntry, RuleKey, Tables},
};
use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};

/// Classes of all ports of one protocol.
#[repr(transparent)]
pub struct PortClasses([u16; 65_536]);

/// The generation in force; its low bit is the slot. The daemon writes it, last of all; one store
/// swaps a policy.
#[btf_map]
static GENERATION: Array<u64, 1> = Array::new();

/// Single address → address class, by slot: no prefix is longer, so what is found here decides. A walk
/// down the trie costs more the more it holds, this does not. The daemon puts a new map in the idle
/// slot.
#[btf_map]
static HOSTS: ArrayOfMaps<HashMap<[u8; 16], u32, 1>, 2> = ArrayOfMaps::new();

/// Shorter prefix → address class, by slot. As above.
#[btf_map]
static ADDRESSES: ArrayOfMaps<LpmTrie<[u8; 16], u32, 1>, 2> = ArrayOfMaps::new();

/// Port → port class: TCP of slot 0, UDP of slot 0, TCP of slot 1, UDP of slot 1. The daemon writes
/// the idle slot.
#[btf_map]
static PORTS: Array<PortClasses, 4> = Array::new();

/// Cell → rule, by slot. The daemon puts a new map in the idle slot.
#[btf_map]
static RULES: ArrayOfMaps<HashMap<RuleKey, u64, 1>, 2> = ArrayOfMaps::new();

/// How each identity is judged: all of slot 0, then all of slot 1. The daemon writes the idle slot.
#[btf_map]
static IDENTITIES: Array<IdentityRecord, { 2 * MAX_IDENTITIES as usize }> = Array::new();

/// One generation, read once at the start of a program and used to its end.
#[derive(Clone, Copy)]
pub struct Active {
    /// Its number, from 1.
    pub generation: u64,
}

/// The generation in force, or `None` while the daemon has written none.
#[inline(always)]
pub fn active() -> Option<Active> {
    match GENERATION.get(0) {
        Some(&generation) if generation != 0 => Some(Active { generation }),
        _ => None,
    }
}

impl Active {
    /// The slot that holds this generation.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (self.generation & 1) as u32
    }

    /// How `identity` is judged. One that this generation does not know is judged as unknown.
    #[inline(always)]
    pub fn record(self, identity: AgentId) -> IdentityRecord {
        match self.entry(identity) {
            Some(record) if record.has(FLAG_PRESENT) => record,
            _ => self.entry(AgentId::UNKNOWN).unwrap_or_default(),
        }
    }

    /// Whether `identity` is one of this generation.
    #[inline(always)]
    pub fn knows(self, identity: AgentId) -> bool {
        self.entry(identity)
            .is_some_and(|record| record.has(FLAG_PRESENT))
    }

    #[inline(always)]
    fn entry(self, identity: AgentId) -> Option<IdentityRecord> {
        if identity.0 >= MAX_IDENTITIES {
            return None;
        }
        IDENTITIES
            .get(self.slot() * MAX_IDENTITIES + identity.0)
            .copied()
    }
}

impl Tables for Active {
    #[inline(always)]
    fn address_class(&self, address: &Address) -> u32 {
        let hosts = HOSTS.get(self.slot());
        // SAFETY: the map is never written after it is put in its slot.
        let class = hosts.and_then(|hosts| unsafe { hosts.get(address.0) });
        if let Some(&class) = class {
            return class;
        }
        let Some(trie) = ADDRESSES.get(self.slot()) else {
            return 0;
        };
        trie.get(&Key::new(128, address.0)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn port_class(&self, protocol: Protocol, port: u16) -> u16 {
        let table = match protocol {
            Protocol::Tcp => self.slot() * 2,
            Protocol::Udp => self.slot() * 2 + 1,
            Protocol::Icmp | Protocol::Other => return 0,
        };
        let Some(classes) = PORTS.get(table) else {
            return 0;
        };
        // SAFETY: the mask keeps the index within the 65,536 entries; `get` would leave a panic path
        // in the program, which the verifier refuses.
        unsafe { *classes.0.get_unchecked(masked(port)) }
    }

    #[inline(always)]
    fn rule(&self, key: &RuleKey) -> Option<RuleEntry> {
        let rules = RULES.get(self.slot())?;
        // SAFETY: the map is never written after it is put in its slot.
        unsafe { rules.get(key) }.map(|&word| RuleEntry::from_word(word))
    }
}

/// `port` as an index, with the mask spelled out.
///
/// The verifier of Linux 6.12 and before knows nothing of a value after a byte swap, while the
/// compiler knows that 16 bits came out of it and drops a mask written in Rust.
#[inline(always)]
fn masked(port: u16) -> usize {
    let mut index = u64::from(port);
    // SAFETY: changes its operand only.
    unsafe {
        asm!("{index} &= 65535", index = inout(reg) index, options(pure, nomem, nostack));
    }
    index as usize
}
