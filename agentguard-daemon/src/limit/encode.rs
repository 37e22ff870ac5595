//! Limits in the numbers of the kernel.

use agentguard_common::limit::{
    Bandwidth, COST_BITS, LIMIT_AUDIT, Limits, QUOTA_DROPS_PACKETS, Quota,
};

use super::period::Span;
use crate::policy::limit::{self, LimitSet, Rate};

const SECOND_NS: u64 = 1_000_000_000;

/// Bandwidth is let pass in bursts of this length. TCP waits 200 ms after it lost what it had on the
/// way: a bucket that is full before that is one that it cannot use up.
const BURST_NS: u64 = 300_000_000;

/// A bucket holds at least this: the kernel hands over up to 64 KiB in one piece, and what does not fit
/// never passes.
const MIN_BURST_BYTES: u64 = 128 << 10;

/// What the kernel is to keep of `set`, whose quotas now are in `spans`. `entries` is how many
/// processes, cgroups or destinations are counted apart.
#[must_use]
pub fn encode(
    set: &LimitSet,
    mut spans: impl FnMut(limit::QuotaPeriod) -> Span,
    entries: u32,
) -> Limits {
    let (connect_cost_ns, connect_burst_ns) = set.connections.map_or((0, 0), of_rate);
    let mut quota = |quota: Option<limit::Quota>| {
        quota.map_or_else(Quota::default, |quota| {
            let span = spans(quota.period);
            Quota {
                bytes: quota.bytes,
                end: span.end.to_word(),
                length: span.length,
                step: span.step,
            }
        })
    };
    let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
    Limits {
        connect_cost_ns,
        connect_burst_ns,
        concurrent: set.concurrent.unwrap_or(0),
        bandwidth: [
            set.egress.map_or_else(Bandwidth::default, of_bandwidth),
            set.ingress.map_or_else(Bandwidth::default, of_bandwidth),
        ],
        quota: [quota(set.egress_quota), quota(set.ingress_quota)],
        entries,
        flags: flag(set.is_audit, LIMIT_AUDIT) | flag(set.quota_drops_packets, QUOTA_DROPS_PACKETS),
    }
}

/// Cost and burst, rounded so that never more passes than was asked for.
fn of_rate(rate: Rate) -> (u64, u64) {
    let cost = rate.period.nanoseconds().div_ceil(rate.count.max(1));
    (cost, cost.saturating_mul(rate.burst).min(u64::MAX >> 2))
}

fn of_bandwidth(bandwidth: limit::Bandwidth) -> Bandwidth {
    let bits = u128::from(bandwidth.bits_per_second.max(1));
    let cost = ((u128::from(SECOND_NS) * 8) << COST_BITS).div_ceil(bits);
    let cost = u64::try_from(cost).unwrap_or(u64::MAX);
    let floor = (u128::from(MIN_BURST_BYTES) * u128::from(cost)) >> COST_BITS;
    Bandwidth {
        cost,
        burst_ns: BURST_NS.max(u64::try_from(floor).unwrap_or(u64::MAX >> 2)),
    }
}

#[cfg(test)]
mod tests {
    use agentguard_common::limit::{PeriodEnd, take};

    use super::*;
    use crate::policy::limit::RatePeriod;

    fn spans(_: limit::QuotaPeriod) -> Span {
        Span {
            end: PeriodEnd { number: 7, end: 9 },
            length: 3,
            step: 24,
        }
    }

    #[test]
    fn a_rate_never_lets_more_pass_than_asked() {
        for count in [1, 3, 7, 999, 5_000, 333_333] {
            let (cost, burst) = of_rate(Rate {
                count,
                period: RatePeriod::Second,
                burst: 2,
            });
            let mut full = 0;
            let mut passed = 0_u64;
            // Asked as often as there is a nanosecond that can change the answer.
            for now in (0..10 * SECOND_NS).step_by(usize::try_from(cost).unwrap()) {
                for _ in 0..3 {
                    if let Some(next) = take(full, now, cost, burst) {
                        full = next;
                        passed += 1;
                    }
                }
            }
            assert!(passed <= 2 + 10 * count, "{count}: {passed}");
            // Costs are whole nanoseconds.
            assert!(passed >= 10 * count * 999 / 1_000, "{count}: {passed}");
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_no_more() {
        let set = LimitSet {
            connections: Some(Rate {
                count: 20,
                period: RatePeriod::Second,
                burst: 40,
            }),
            ..LimitSet::default()
        };
        let limits = encode(&set, spans, 0);
        let mut full = 0;
        let passed = (0..100)
            .filter(|_| {
                take(full, 1_000, limits.connect_cost_ns, limits.connect_burst_ns)
                    .map(|next| full = next)
                    .is_some()
            })
            .count();
        assert_eq!(passed, 40);
    }

    #[test]
    fn a_bucket_holds_300_ms_and_at_least_two_of_the_largest_packets() {
        let of = |bits_per_second| of_bandwidth(limit::Bandwidth { bits_per_second });
        assert_eq!(
            of(1_000_000_000),
            Bandwidth {
                cost: 8 << COST_BITS,
                burst_ns: BURST_NS
            }
        );
        let slow = of(1_000_000);
        assert_eq!(slow.cost, 8_000 << COST_BITS);
        assert_eq!(slow.burst_ns, 8_000 * MIN_BURST_BYTES);
    }

    #[test]
    fn quotas_carry_their_period() {
        let set = LimitSet {
            ingress_quota: Some(limit::Quota {
                bytes: 5,
                period: limit::QuotaPeriod::Day,
            }),
            is_audit: true,
            ..LimitSet::default()
        };
        let limits = encode(&set, spans, 4);
        assert_eq!(limits.quota[0], Quota::default());
        assert_eq!(limits.quota[1].bytes, 5);
        assert_eq!(
            limits.quota[1].end,
            spans(limit::QuotaPeriod::Day).end.to_word()
        );
        assert_eq!((limits.entries, limits.flags), (4, LIMIT_AUDIT));
    }
}
