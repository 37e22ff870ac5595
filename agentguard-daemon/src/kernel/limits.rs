//! The maps of limits: what is configured, and what was used.

use std::collections::BTreeSet;

use agentguard_common::{
    capacity::{MAX_LIMITERS, MAX_RULE_LIMITERS},
    identity::AgentId,
    limit::{Bucket, BucketKey, LimitState, LimiterRef, Limits, RuleLimiterKey},
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};

use super::{
    KernelError,
    maps::{of, take},
};

/// A limiter in one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimiterEntry {
    /// Which.
    pub limiter: LimiterRef,
    /// The identity whose it is.
    pub identity: AgentId,
    /// The rule that it is of, if it is of one.
    pub rule: Option<u32>,
    /// What it allows.
    pub limits: Limits,
}

/// The maps, and what is in them.
pub(super) struct LimitMaps {
    limits: Array<MapData, Limits>,
    states: Array<MapData, LimitState>,
    buckets: HashMap<MapData, BucketKey, Bucket>,
    removed: Array<MapData, u64>,
    rules: HashMap<MapData, RuleLimiterKey, u32>,
    /// The limiters that are configured in each slot.
    written: [BTreeSet<u32>; 2],
}

impl LimitMaps {
    /// `is_adopted` says whether an earlier daemon may have written them.
    pub(super) fn take(ebpf: &mut Ebpf, is_adopted: bool) -> Result<Self, KernelError> {
        let mut maps = Self {
            limits: take(ebpf, "LIMITS")?,
            states: take(ebpf, "LIMIT_STATES")?,
            buckets: take(ebpf, "BUCKETS")?,
            removed: take(ebpf, "REMOVED_BUCKETS")?,
            rules: take(ebpf, "RULE_LIMITERS")?,
            written: Default::default(),
        };
        if !is_adopted {
            return Ok(maps);
        }
        for slot in [0, 1] {
            for number in 0..MAX_LIMITERS {
                if maps.read(slot, number)? != Limits::default() {
                    maps.written[slot as usize].insert(number);
                }
            }
        }
        Ok(maps)
    }

    fn read(&self, slot: u32, number: u32) -> Result<Limits, KernelError> {
        let index = slot * MAX_LIMITERS + number;
        self.limits.get(&index, 0).map_err(of("LIMITS"))
    }

    /// Writes the limits of a generation into its slot.
    pub(super) fn write(
        &mut self,
        slot: u32,
        limiters: &[LimiterEntry],
    ) -> Result<(), KernelError> {
        let numbers: BTreeSet<u32> = limiters.iter().map(|it| it.limiter.number()).collect();
        let stale: Vec<u32> = self.written[slot as usize]
            .difference(&numbers)
            .copied()
            .collect();
        for number in stale {
            self.set(slot, number, Limits::default())?;
            self.written[slot as usize].remove(&number);
        }
        for entry in limiters {
            let number = entry.limiter.number();
            self.set(slot, number, entry.limits)?;
            self.written[slot as usize].insert(number);
        }
        self.write_rules(slot, limiters)
    }

    fn write_rules(&mut self, slot: u32, limiters: &[LimiterEntry]) -> Result<(), KernelError> {
        let entries: Vec<(RuleLimiterKey, LimiterRef)> = limiters
            .iter()
            .filter_map(|entry| {
                let key = RuleLimiterKey {
                    identity: entry.identity.0,
                    rule: entry.rule?,
                    slot,
                };
                Some((key, entry.limiter))
            })
            .collect();
        if entries.len() > MAX_RULE_LIMITERS as usize / 2 {
            return Err(KernelError::Unsupported {
                what: format!("{} limits of rules", entries.len()),
            });
        }
        let mut stale = Vec::new();
        for key in self.rules.keys() {
            let key = key.map_err(of("RULE_LIMITERS"))?;
            if key.slot == slot {
                stale.push(key);
            }
        }
        for key in stale {
            self.rules.remove(&key).map_err(of("RULE_LIMITERS"))?;
        }
        for (key, limiter) in entries {
            self.rules
                .insert(key, limiter.0, 0)
                .map_err(of("RULE_LIMITERS"))?;
        }
        Ok(())
    }

    /// Sets what one limiter allows.
    pub(super) fn set(
        &mut self,
        slot: u32,
        number: u32,
        limits: Limits,
    ) -> Result<(), KernelError> {
        self.limits
            .set(slot * MAX_LIMITERS + number, limits, 0)
            .map_err(of("LIMITS"))
    }

    /// What was used of a limiter.
    pub(super) fn state(&self, number: u32) -> Result<LimitState, KernelError> {
        self.states.get(&number, 0).map_err(of("LIMIT_STATES"))
    }

    /// Sets what was used of a limiter. Only where no program takes from it yet: what one takes
    /// meanwhile would be lost.
    pub(super) fn restore(&mut self, number: u32, state: LimitState) -> Result<(), KernelError> {
        self.states
            .set(number, state, 0)
            .map_err(of("LIMIT_STATES"))
    }

    /// What is counted apart.
    pub(super) fn buckets(&self) -> Result<Vec<(BucketKey, Bucket)>, KernelError> {
        let mut found = Vec::new();
        for entry in self.buckets.iter() {
            match entry {
                Ok(entry) => found.push(entry),
                // Taken away since its key was read.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(of("BUCKETS")(error)),
            }
        }
        Ok(found)
    }

    /// Buckets of a limiter that are there: the kernel's count of those made less those removed.
    pub(super) fn entries(&self, number: u32) -> Result<u64, KernelError> {
        let made = self.state(number)?.made;
        let removed = self
            .removed
            .get(&number, 0)
            .map_err(of("REMOVED_BUCKETS"))?;
        Ok(made.saturating_sub(removed))
    }

    /// Removes a bucket that is as good as new.
    pub(super) fn remove_bucket(&mut self, key: &BucketKey) -> Result<(), KernelError> {
        match self.buckets.remove(key) {
            Ok(()) => {}
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(of("BUCKETS")(error)),
        }
        let removed = self
            .removed
            .get(&key.limiter, 0)
            .map_err(of("REMOVED_BUCKETS"))?;
        self.removed
            .set(key.limiter, removed + 1, 0)
            .map_err(of("REMOVED_BUCKETS"))
    }
}
