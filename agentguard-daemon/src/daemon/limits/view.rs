//! Limits for people: what is configured, what is used, and what is left.

use agentguard_common::limit::{COST_BITS, IN, LimitState, OUT, PeriodEnd, Scope};
use jiff::{SignedDuration, Timestamp};

use super::Limiter;
use crate::{
    control::{LimitStatus, LimitUnit},
    daemon::{Daemon, clock::boot_now_ns, generation::InForce},
    kernel::KernelError,
    policy::limit::name_of_scope,
};

/// What was asked for as `kind`, as policy writes it.
pub(super) fn configured(limiter: &Limiter, kind: &str) -> String {
    let entries = || limiter.limits.entries.to_string();
    let mut texts = limiter.set.texts();
    let found = texts.find(|(key, _)| *key == kind);
    found.map_or_else(entries, |(_, text)| text)
}

/// What is used of one kind of limit.
struct Use {
    kind: &'static str,
    unit: LimitUnit,
    used: u64,
    most: u64,
    refused: u64,
    refused_bytes: u64,
    period_ends: Option<Timestamp>,
}

impl Daemon {
    /// What there is of each limit in force.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read it.
    pub(in crate::daemon) fn limit_statuses(
        &self,
        policy: &InForce,
    ) -> Result<Vec<LimitStatus>, KernelError> {
        let boot_ns = boot_now_ns();
        let now = Timestamp::now();
        let buckets = if self
            .limits
            .limiters
            .iter()
            .any(|it| it.per != Scope::Identity)
        {
            self.kernel.buckets()?
        } else {
            Vec::new()
        };
        let mut all = Vec::new();
        for limiter in &self.limits.limiters {
            let number = limiter.reference.number();
            let mut state = self.kernel.limit_state(number)?;
            let mut apart = None;
            if limiter.per != Scope::Identity {
                apart = Some(self.kernel.bucket_count(number)?);
                // Of those that are counted apart, the ones that have used most.
                for (_, bucket) in buckets.iter().filter(|(key, _)| key.limiter == number) {
                    let most = &mut state.bucket;
                    most.connect_ns = most.connect_ns.max(bucket.connect_ns);
                    most.open = most.open.max(bucket.open);
                    for way in [OUT, IN] {
                        most.bytes_ns[way] = most.bytes_ns[way].max(bucket.bytes_ns[way]);
                    }
                }
            }
            let Some(identity) = policy.compiled.identities.get(limiter.index) else {
                continue;
            };
            let rule = limiter
                .rule
                .and_then(|rule| self.trail.rule(policy.generation, rule))
                .map(|source| source.name.clone());
            all.extend(
                uses(limiter, &state, now, boot_ns)
                    .into_iter()
                    .map(|it| LimitStatus {
                        identity: identity.name.clone(),
                        class: identity.class,
                        rule: rule.clone(),
                        per: name_of_scope(limiter.per).into(),
                        limit: it.kind.into(),
                        configured: configured(limiter, it.kind),
                        unit: it.unit,
                        used: it.used,
                        most: it.most,
                        headroom: it.most.saturating_sub(it.used),
                        refused: it.refused,
                        refused_bytes: it.refused_bytes,
                        period_ends: it.period_ends,
                        counted_apart: apart,
                        is_audit: limiter.set.is_audit,
                    }),
            );
        }
        Ok(all)
    }
}

fn uses(limiter: &Limiter, state: &LimitState, now: Timestamp, boot_ns: u64) -> Vec<Use> {
    let (set, limits) = (&limiter.set, &limiter.limits);
    let mut found = Vec::new();
    let blank = |kind, unit| Use {
        kind,
        unit,
        used: 0,
        most: 0,
        refused: 0,
        refused_bytes: 0,
        period_ends: None,
    };
    if let Some(rate) = set.connections {
        let taken = state.bucket.connect_ns.saturating_sub(boot_ns);
        found.push(Use {
            used: taken
                .div_ceil(limits.connect_cost_ns.max(1))
                .min(rate.burst),
            most: rate.burst,
            refused: state.over_rate,
            ..blank("connections", LimitUnit::Flows)
        });
    }
    if let Some(most) = set.concurrent {
        found.push(Use {
            used: state.bucket.open,
            most,
            refused: state.over_concurrent,
            ..blank("concurrent", LimitUnit::Flows)
        });
    }
    let of_way = [
        (set.egress, set.egress_quota, "egress", "egress-quota"),
        (set.ingress, set.ingress_quota, "ingress", "ingress-quota"),
    ];
    for (way, (bandwidth, quota, rate_kind, quota_kind)) in of_way.into_iter().enumerate() {
        let over = |blank: Use| Use {
            refused: state.over_packets[way],
            refused_bytes: state.over_bytes[way],
            ..blank
        };
        if bandwidth.is_some() {
            let rate = &limits.bandwidth[way];
            let bytes = |ns: u64| (u128::from(ns) << COST_BITS) / u128::from(rate.cost.max(1));
            let taken = state.bucket.bytes_ns[way].saturating_sub(boot_ns);
            found.push(Use {
                used: u64::try_from(bytes(taken)).unwrap_or(u64::MAX),
                most: u64::try_from(bytes(rate.burst_ns)).unwrap_or(u64::MAX),
                ..over(blank(rate_kind, LimitUnit::Bytes))
            });
        }
        if quota.is_some() {
            let kernel = &limits.quota[way];
            let is_current = state.period[way] == kernel.period(boot_ns);
            let end = PeriodEnd::from_word(kernel.end).end << PeriodEnd::UNIT_BITS;
            let left = end.saturating_sub(boot_ns);
            let left = SignedDuration::from_nanos(i64::try_from(left).unwrap_or(i64::MAX));
            let mut this = blank(quota_kind, LimitUnit::Bytes);
            if bandwidth.is_none() {
                this = over(this);
            }
            found.push(Use {
                used: if is_current { state.used[way] } else { 0 },
                most: kernel.bytes,
                refused: this.refused + state.over_quota,
                period_ends: now.checked_add(left).ok(),
                ..this
            });
        }
    }
    found
}
