//! The verdict cells: what each combination of classes holds, and which rule says so.

use std::collections::{BTreeSet, HashMap};

use agentguard_common::{
    capacity::MAX_RULES,
    connection::{Direction, Protocol},
    policy::{RuleEntry, RuleKey},
};

use super::{fact::Mask, port::ClassedPorts};
use crate::policy::Effect;

/// A rule, and the classes that it covers.
pub(super) struct ClassedRule {
    /// From 1, in the order of roles and of their files.
    pub(super) number: u32,
    pub(super) direction: Direction,
    pub(super) effect: Effect,
    /// Whether it covers all addresses of both families.
    pub(super) everywhere: bool,
    /// Sorted.
    pub(super) addresses: Vec<u32>,
    pub(super) ports: ClassedPorts,
    /// Without this it covers nothing.
    pub(super) condition: Mask,
}

/// The rules of one set of roles, in the order of their numbers.
pub(super) type Profile<'a> = Vec<&'a ClassedRule>;

/// The cells of all profiles so far.
#[derive(Default)]
pub(super) struct Cells {
    cells: HashMap<RuleKey, RuleEntry>,
    /// Deny rules that take away what another rule allows.
    restricting: BTreeSet<u32>,
}

impl Cells {
    /// Whether there are more than the kernel's map holds.
    pub(super) fn overflow(&self) -> bool {
        self.cells.len() > MAX_RULES as usize
    }

    /// Adds the cells of one profile; stops where they are too many.
    pub(super) fn fill(&mut self, profile: u32, rules: &Profile<'_>) {
        for rule in rules {
            for key in rule.keys(profile) {
                if self.overflow() {
                    return;
                }
                self.offer(key, rule);
            }
        }
    }

    /// Deny wins over allow; among equals the first rule.
    fn offer(&mut self, key: RuleKey, rule: &ClassedRule) {
        let entry = RuleEntry {
            rule: rule.number,
            allow: rule.effect == Effect::Allow,
        };
        let held = self.cells.entry(key).or_insert(entry);
        if held.allow == entry.allow {
            return;
        }
        if !entry.allow {
            *held = entry;
        }
        self.restricting.insert(held.rule);
    }

    /// The rules that decide some cell.
    pub(super) fn deciding(&self) -> BTreeSet<u32> {
        self.cells.values().map(|entry| entry.rule).collect()
    }

    /// The rule that decides the first cell which `rule` covers.
    pub(super) fn decider(&self, profile: u32, rule: &ClassedRule) -> Option<u32> {
        let key = rule.keys(profile).next()?;
        self.cells.get(&key).map(|entry| entry.rule)
    }

    /// The deny rules that take away what another rule allows.
    pub(super) fn restricting(&self) -> &BTreeSet<u32> {
        &self.restricting
    }

    pub(super) fn into_sorted(self) -> Vec<(RuleKey, RuleEntry)> {
        let mut cells: Vec<_> = self.cells.into_iter().collect();
        cells.sort_unstable_by_key(|&(key, _)| key);
        cells
    }
}

impl ClassedRule {
    /// The cells that the rule covers for a profile.
    fn keys(&self, profile: u32) -> impl Iterator<Item = RuleKey> {
        let bind = self.binds().then_some((Direction::Bind, 0));
        let cells = move |(direction, address_class)| {
            self.ports
                .cells()
                .map(move |(protocol, port_class)| RuleKey {
                    profile,
                    address_class,
                    port_class,
                    direction: direction as u8,
                    protocol: protocol as u8,
                })
        };
        self.addresses
            .iter()
            .map(|&class| (self.direction, class))
            .chain(bind)
            .flat_map(cells)
    }

    /// Whether it says something of a local port whoever the peer will be: a rule that denies only
    /// some peers leaves the port open for the others.
    fn binds(&self) -> bool {
        match (self.direction, self.effect) {
            (Direction::Ingress, Effect::Allow) => true,
            (Direction::Ingress, Effect::Deny) => self.everywhere,
            (Direction::Egress | Direction::Bind, _) => false,
        }
    }
}

impl ClassedPorts {
    /// Protocol and port class of each cell; class 0 where the protocol has no ports.
    fn cells(&self) -> impl Iterator<Item = (Protocol, u16)> {
        let tcp = self.tcp.iter().map(|&class| (Protocol::Tcp, class));
        let udp = self.udp.iter().map(|&class| (Protocol::Udp, class));
        let icmp = self.icmp.then_some((Protocol::Icmp, 0));
        let other = self.other.then_some((Protocol::Other, 0));
        tcp.chain(udp).chain(icmp).chain(other)
    }
}
