//! What is new of a limit since it was looked at last.

use std::time::Duration;

use agentguard_common::limit::{IN, LIMIT_AUDIT, LimitState, OUT};
use jiff::Timestamp;

use super::{Limiter, view};
use crate::{
    audit::{AuditRecord, LimitName, LimitNews, LimitReport},
    daemon::Daemon,
    policy::{compiled::Mode, limit::name_of_scope},
};

/// Kinds of limits, in the order of [`counts`].
pub(super) const KINDS: usize = 6;

/// One report for each kind of limit in this time.
const WINDOW: Duration = Duration::from_secs(10);

/// What was over a limit and is not told of yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// When it began; nothing while nothing is over.
    start: Option<Timestamp>,
    end: Timestamp,
    count: u64,
    bytes: u64,
}

/// A report without its names.
pub(super) struct Report {
    pub(super) kind: &'static str,
    pub(super) configured: String,
    pub(super) news: LimitNews,
}

/// What is over each kind of limit: how often, and with how many bytes.
fn counts(limiter: &Limiter, state: &LimitState) -> [(&'static str, u64, u64); KINDS] {
    let set = &limiter.set;
    // Packets are over the bandwidth or over the quota; which one, nobody asks one by one.
    let of_bytes = |bandwidth: bool, names: [&'static str; 2]| names[usize::from(!bandwidth)];
    [
        ("connections", state.over_rate, 0),
        ("concurrent", state.over_concurrent, 0),
        (
            if set.egress_quota.is_some() {
                "egress-quota"
            } else {
                "ingress-quota"
            },
            state.over_quota,
            0,
        ),
        (name_of_scope(limiter.per), state.over_entries, 0),
        (
            of_bytes(set.egress.is_some(), ["egress", "egress-quota"]),
            state.over_packets[OUT],
            state.over_bytes[OUT],
        ),
        (
            of_bytes(set.ingress.is_some(), ["ingress", "ingress-quota"]),
            state.over_packets[IN],
            state.over_bytes[IN],
        ),
    ]
}

impl Limiter {
    /// Takes in what was used up to now, and says what is to be told.
    pub(super) fn news(
        &mut self,
        state: &LimitState,
        time: Timestamp,
        boot_ns: u64,
    ) -> Vec<Report> {
        let mut reports = Vec::new();
        let (before, after) = (counts(self, &self.seen), counts(self, state));
        for (at, ((_, was, was_bytes), (kind, is, is_bytes))) in
            before.into_iter().zip(after).enumerate()
        {
            let window = &mut self.windows[at];
            let (count, bytes) = (is.saturating_sub(was), is_bytes.saturating_sub(was_bytes));
            if count > 0 {
                window.start.get_or_insert(time);
                window.end = time;
                window.count += count;
                window.bytes += bytes;
            }
            let Some(start) = window.start else {
                continue;
            };
            let age = time.duration_since(start);
            // The clock may have been set back.
            if age.is_negative() || age.unsigned_abs() >= WINDOW {
                let closed = std::mem::take(window);
                reports.push(self.report(kind, start, closed));
            }
        }
        self.seen = *state;
        self.quota_news(state, time, boot_ns, &mut reports);
        reports
    }

    fn report(&self, kind: &'static str, start: Timestamp, window: Window) -> Report {
        Report {
            kind,
            configured: view::configured(self, kind),
            news: LimitNews::Reached {
                start,
                end: window.end,
                count: window.count,
                bytes: window.bytes,
                is_audit: self.limits.flags & LIMIT_AUDIT != 0,
            },
        }
    }

    /// Whether something waits to be told.
    pub(super) fn has_open_window(&self) -> bool {
        self.windows.iter().any(|window| window.start.is_some())
    }

    /// Each of 80 and 100 percent is told of once in a period.
    fn quota_news(
        &mut self,
        state: &LimitState,
        time: Timestamp,
        boot_ns: u64,
        reports: &mut Vec<Report>,
    ) {
        let kinds = ["egress-quota", "ingress-quota"];
        for (way, kind) in kinds.into_iter().enumerate() {
            let quota = &self.limits.quota[way];
            // What was used in a period that is over is none of this one.
            if quota.bytes == 0 || state.period[way] != quota.period(boot_ns) {
                continue;
            }
            let used = u128::from(state.used[way]) * 100 / u128::from(quota.bytes);
            let (period, told) = self.told[way];
            let mut told = if period == state.period[way] { told } else { 0 };
            for percent in [80, 100] {
                if used >= u128::from(percent) && told < percent {
                    told = percent;
                    reports.push(Report {
                        kind,
                        configured: view::configured(self, kind),
                        news: LimitNews::Used {
                            time,
                            percent,
                            bytes: state.used[way],
                        },
                    });
                }
            }
            self.told[way] = (state.period[way], told);
        }
    }
}

impl Daemon {
    /// Passes on what is new of the limiter at `at`.
    pub(super) fn tell_of_limit(&mut self, at: usize, report: Report) {
        let generation = self.kernel.generation();
        let limiter = &self.limits.limiters[at];
        let actor = self.trail.actor(generation, limiter.identity);
        let is_audit = actor.mode == Some(Mode::Audit);
        let mut news = report.news;
        if let LimitNews::Reached { is_audit: it, .. } = &mut news {
            *it |= is_audit;
        }
        let report = LimitReport {
            limit: LimitName {
                rule: limiter
                    .rule
                    .and_then(|rule| self.trail.rule(generation, rule)),
                actor,
                per: name_of_scope(limiter.per),
                kind: report.kind,
                configured: report.configured,
            },
            generation,
            news,
        };
        self.note(AuditRecord::Limit(Box::new(report)));
    }
}
