//! Address classes: addresses that the same sets hold are one class.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use agentguard_common::connection::Address;
use ipnet::IpNet;

use crate::policy::{HostFacts, Policy, Rule, compiled::AddressClass};

/// Where IPv4 lives among IPv6 addresses: `::ffff:0:0/96`.
const V4_ROOT: Prefix = Prefix {
    bits: 0xffff << 32,
    length: 96,
};

/// Every IPv6 address, IPv4 aside.
const V6_ROOT: Prefix = Prefix { bits: 0, length: 0 };

/// One prefix, IPv4 in mapped form. The order puts a prefix before all that it holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    bits: u128,
    length: u8,
}

impl Prefix {
    fn new(net: &IpNet) -> Self {
        match net.network() {
            IpAddr::V4(address) => Self {
                bits: u128::from_be_bytes(Address::from_v4(address.octets()).0),
                length: 96 + net.prefix_len(),
            },
            IpAddr::V6(address) => Self {
                bits: address.to_bits(),
                length: net.prefix_len(),
            },
        }
    }

    fn holds(&self, other: &Self) -> bool {
        let mask = u128::MAX
            .checked_shl(128 - u32::from(self.length))
            .unwrap_or(0);
        self.length <= other.length && (other.bits & mask) == self.bits
    }

    fn is_v4(&self) -> bool {
        V4_ROOT.holds(self)
    }
}

/// The address sets that rules name, numbered as they come.
pub(super) struct AddressSets<'a> {
    policy: &'a Policy,
    host: &'a HostFacts,
    by_zone: HashMap<&'a str, u32>,
    by_content: HashMap<Vec<IpNet>, u32>,
    /// Pairs of a prefix and a set that has it.
    members: Vec<(Prefix, u32)>,
}

impl<'a> AddressSets<'a> {
    pub(super) fn new(policy: &'a Policy, host: &'a HostFacts) -> Self {
        Self {
            policy,
            host,
            by_zone: HashMap::new(),
            by_content: HashMap::new(),
            members: Vec::new(),
        }
    }

    /// The sets whose union a rule covers.
    pub(super) fn add(&mut self, rule: &'a Rule) -> Vec<u32> {
        let mut sets = Vec::new();
        for name in rule.zones.keys() {
            let set = match self.by_zone.get(name.as_str()) {
                Some(&set) => set,
                None => {
                    let addresses = super::zone_addresses(self.policy, self.host, name);
                    let set = self.add_content(addresses);
                    self.by_zone.insert(name, set);
                    set
                }
            };
            sets.push(set);
        }
        if !rule.addresses.is_empty() {
            sets.push(self.add_content(rule.addresses.clone()));
        }
        sets
    }

    fn add_content(&mut self, mut addresses: Vec<IpNet>) -> u32 {
        addresses.sort_unstable();
        addresses.dedup();
        if let Some(&set) = self.by_content.get(&addresses) {
            return set;
        }
        let set = u32::try_from(self.by_content.len()).unwrap_or(u32::MAX);
        self.members
            .extend(addresses.iter().map(|net| (Prefix::new(net), set)));
        self.by_content.insert(addresses, set);
        set
    }

    /// Sorts the prefixes and walks them with a stack of those that hold the current one: the sets
    /// of a prefix are its own and those of the prefixes around it.
    pub(super) fn into_classes(mut self) -> AddressClasses {
        self.members.sort_unstable();
        let mut classes = ClassNumbers::default();
        let mut prefixes = Vec::new();
        let (v4, v6): (Vec<_>, Vec<_>) = self
            .members
            .into_iter()
            .partition(|(prefix, _)| prefix.is_v4());
        walk(V6_ROOT, &v6, &mut classes, &mut prefixes);
        // The IPv6 prefixes around it do not hold IPv4: where one has a class, IPv4 gets its own
        // entry, be it for class 0.
        let around = prefixes
            .iter()
            .rev()
            .any(|(prefix, _)| prefix.holds(&V4_ROOT));
        let root = prefixes.len();
        walk(V4_ROOT, &v4, &mut classes, &mut prefixes);
        let has_root = prefixes
            .get(root)
            .is_some_and(|&(prefix, _)| prefix == V4_ROOT);
        if around && !has_root {
            prefixes.push((V4_ROOT, 0));
        }
        prefixes.sort_unstable();
        AddressClasses {
            prefixes: prefixes
                .into_iter()
                .map(|(prefix, class)| AddressClass {
                    address: Address(prefix.bits.to_be_bytes()),
                    length: prefix.length,
                    class,
                })
                .collect(),
            by_set: classes.by_set(),
        }
    }
}

/// Gives every prefix of one family its class; one whose class is that of the prefix around it is
/// left out.
fn walk(
    root: Prefix,
    members: &[(Prefix, u32)],
    classes: &mut ClassNumbers,
    prefixes: &mut Vec<(Prefix, u32)>,
) {
    let mut around = vec![(root, 0)];
    for group in members.chunk_by(|(a, _), (b, _)| a == b) {
        let Some(&(prefix, _)) = group.first() else {
            continue;
        };
        while around.len() > 1 && around.last().is_some_and(|(top, _)| !top.holds(&prefix)) {
            around.pop();
        }
        let outer = around.last().map_or(0, |&(_, class)| class);
        let own: Vec<u32> = group.iter().map(|&(_, set)| set).collect();
        let class = classes.join(outer, own);
        if class != outer {
            prefixes.push((prefix, class));
            around.push((prefix, class));
        }
    }
}

/// Numbers for distinct sets of sets; 0 is the empty one.
struct ClassNumbers {
    /// Sets of each class, sorted.
    sets: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, u32>,
    /// What `join` found before: most prefixes of a zone stand in the same surroundings.
    joined: HashMap<(u32, Vec<u32>), u32>,
}

impl Default for ClassNumbers {
    fn default() -> Self {
        Self {
            sets: vec![Vec::new()],
            numbers: HashMap::from([(Vec::new(), 0)]),
            joined: HashMap::new(),
        }
    }
}

impl ClassNumbers {
    /// The class of what has the sets of `outer` and `own`.
    fn join(&mut self, outer: u32, own: Vec<u32>) -> u32 {
        let key = (outer, own);
        if let Some(&class) = self.joined.get(&key) {
            return class;
        }
        let mut sets = self.sets.get(outer as usize).cloned().unwrap_or_default();
        sets.extend(&key.1);
        sets.sort_unstable();
        sets.dedup();
        let next = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        let class = *self.numbers.entry(sets.clone()).or_insert(next);
        if class == next {
            self.sets.push(sets);
        }
        self.joined.insert(key, class);
        class
    }

    fn by_set(&self) -> BTreeMap<u32, Vec<u32>> {
        let mut by_set: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (class, sets) in (0..).zip(&self.sets) {
            for &set in sets {
                by_set.entry(set).or_default().push(class);
            }
        }
        by_set
    }
}

/// The address classes of a policy.
pub(super) struct AddressClasses {
    /// Sorted by address, then length.
    pub(super) prefixes: Vec<AddressClass>,
    by_set: BTreeMap<u32, Vec<u32>>,
}

impl AddressClasses {
    /// The classes of the union of some sets, sorted.
    pub(super) fn of_sets(&self, sets: &[u32]) -> Vec<u32> {
        let mut classes: Vec<u32> = sets
            .iter()
            .filter_map(|set| self.by_set.get(set))
            .flatten()
            .copied()
            .collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }
}
