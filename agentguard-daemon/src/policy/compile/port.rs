//! Port classes: ports of a protocol that the same rules name are one class.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
};

use crate::policy::{PortMatch, Rule, compiled::PortClasses};

/// Every port, 0 among them.
const EVERY: RangeInclusive<u16> = 0..=u16::MAX;

/// The ports of one rule.
pub(super) struct RulePorts {
    /// Ranges of TCP ports.
    tcp: Vec<RangeInclusive<u16>>,
    /// Ranges of UDP ports.
    udp: Vec<RangeInclusive<u16>>,
    icmp: bool,
    other: bool,
}

/// The port classes that a rule covers.
pub(super) struct ClassedPorts {
    /// TCP, sorted.
    pub(super) tcp: Vec<u16>,
    /// UDP, sorted.
    pub(super) udp: Vec<u16>,
    /// Whether it covers ICMP.
    pub(super) icmp: bool,
    /// Whether it covers protocols that are none of these.
    pub(super) other: bool,
}

/// The distinct lists of ranges that rules name, by protocol.
#[derive(Default)]
pub(super) struct PortSets {
    tcp: BTreeSet<Vec<(u16, u16)>>,
    udp: BTreeSet<Vec<(u16, u16)>>,
}

impl PortSets {
    pub(super) fn add(&mut self, rule: &Rule) -> RulePorts {
        let ports = RulePorts::new(rule);
        self.tcp.insert(merge(&ports.tcp));
        self.udp.insert(merge(&ports.udp));
        ports
    }

    pub(super) fn into_classes(self) -> PortTables {
        let tables = PortClasses {
            tcp: split(&self.tcp),
            udp: split(&self.udp),
        };
        PortTables {
            tcp_runs: runs(&tables.tcp),
            udp_runs: runs(&tables.udp),
            tables,
        }
    }
}

impl RulePorts {
    fn new(rule: &Rule) -> Self {
        let Some(matches) = &rule.ports else {
            return Self {
                tcp: vec![EVERY],
                udp: vec![EVERY],
                icmp: true,
                other: true,
            };
        };
        let mut ports = Self {
            tcp: Vec::new(),
            udp: Vec::new(),
            icmp: false,
            other: false,
        };
        for entry in matches {
            match entry {
                PortMatch::Tcp(range) => ports.tcp.push(range.clone()),
                PortMatch::Udp(range) => ports.udp.push(range.clone()),
                PortMatch::Icmp => ports.icmp = true,
            }
        }
        ports
    }
}

/// Sorted ranges that do not overlap.
fn merge(ranges: &[RangeInclusive<u16>]) -> Vec<(u16, u16)> {
    let mut sorted: Vec<_> = ranges
        .iter()
        .map(|range| (*range.start(), *range.end()))
        .collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Splits the ports until each class lies wholly inside or wholly outside of each set. No set of
/// sets is ever written down, and there are never more classes than ports.
fn split(sets: &BTreeSet<Vec<(u16, u16)>>) -> Vec<u16> {
    let mut classes = vec![0_u16; 1 << 16];
    let mut sizes = vec![1_u32 << 16];
    for set in sets {
        // What holds every port splits nothing.
        if set.as_slice() == [(*EVERY.start(), *EVERY.end())] {
            continue;
        }
        let mut inside: BTreeMap<u16, u32> = BTreeMap::new();
        for &(first, last) in set {
            for class in range_of(&mut classes, first, last) {
                *inside.entry(*class).or_default() += 1;
            }
        }
        // A class that is wholly inside keeps its number, the others give up what is inside.
        let mut moves: HashMap<u16, u16> = HashMap::new();
        for (class, count) in inside {
            let Some(size) = sizes.get_mut(usize::from(class)) else {
                continue;
            };
            if *size != count {
                *size -= count;
                moves.insert(class, u16::try_from(sizes.len()).unwrap_or(u16::MAX));
                sizes.push(count);
            }
        }
        for &(first, last) in set {
            for class in range_of(&mut classes, first, last) {
                *class = moves.get(class).copied().unwrap_or(*class);
            }
        }
    }
    classes
}

fn range_of(classes: &mut [u16], first: u16, last: u16) -> &mut [u16] {
    classes
        .get_mut(usize::from(first)..usize::from(last) + 1)
        .unwrap_or_default()
}

/// The port classes of a policy.
pub(super) struct PortTables {
    pub(super) tables: PortClasses,
    tcp_runs: Vec<(u16, u16)>,
    udp_runs: Vec<(u16, u16)>,
}

impl PortTables {
    /// The classes that a rule covers.
    pub(super) fn of(&self, ports: &RulePorts) -> ClassedPorts {
        ClassedPorts {
            tcp: covered(&self.tcp_runs, &ports.tcp),
            udp: covered(&self.udp_runs, &ports.udp),
            icmp: ports.icmp,
            other: ports.other,
        }
    }
}

/// First port and class of each run of ports of one class.
fn runs(classes: &[u16]) -> Vec<(u16, u16)> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for (port, &class) in (0..=u16::MAX).zip(classes) {
        if runs.last().is_none_or(|&(_, last)| last != class) {
            runs.push((port, class));
        }
    }
    runs
}

fn covered(runs: &[(u16, u16)], ranges: &[RangeInclusive<u16>]) -> Vec<u16> {
    let mut covered: BTreeSet<u16> = BTreeSet::new();
    for range in ranges {
        let from = runs.partition_point(|(first, _)| first <= range.start());
        let to = runs.partition_point(|(first, _)| first <= range.end());
        let inside = runs.get(from.saturating_sub(1)..to).unwrap_or_default();
        covered.extend(inside.iter().map(|(_, class)| class));
    }
    covered.into_iter().collect()
}
