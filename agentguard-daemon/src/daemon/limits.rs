//! Limits in force: how they get into the kernel, and what is told of them.

mod news;
mod view;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use agentguard_common::{
    capacity::{MAX_BUCKETS, MAX_BUCKETS_OF_ONE},
    identity::{AgentId, FLAG_BYTE_LIMITS, FLAG_FLOW_LIMITS, FLAG_RULE_LIMITS},
    limit::{BucketKey, LimitState, LimiterRef, Limits, PeriodEnd, Scope},
};
use jiff::{Timestamp, tz::TimeZone};

use self::news::Window;
use super::{Daemon, clock::boot_now_ns};
use crate::{
    kernel::{KernelError, LimiterEntry},
    limit::{Book, BookError, Used, encode},
    policy::{
        compiled::{Compiled, CompiledLimits},
        limit::{LimitSet, QuotaTime, name_of_scope},
    },
};

/// How often limits are looked at while something may change unseen.
const PAUSE: Duration = Duration::from_secs(1);

/// How often what was used of quotas is put on disk, and buckets that are as good as new are looked
/// for.
const SAVE_PAUSE: Duration = Duration::from_secs(10);

/// The end of a period is moved where it is further off than this: so much may the clocks drift apart
/// unnoticed.
const END_TOLERANCE: u64 = 200;

/// One limiter in force.
#[derive(Debug)]
struct Limiter {
    name: String,
    reference: LimiterRef,
    identity: AgentId,
    index: usize,
    rule: Option<u32>,
    per: Scope,
    set: LimitSet,
    limits: Limits,
    /// As it was when it was looked at last.
    seen: LimitState,
    windows: [Window; news::KINDS],
    /// Percent of the quotas that were told of, in which period.
    told: [(u64, u8); 2],
}

/// The limits in force, and the book of what they used.
#[derive(Debug)]
pub(super) struct LimitDesk {
    book: Book,
    zone: TimeZone,
    limiters: Vec<Limiter>,
    next_look: Option<Instant>,
    next_save: Option<Instant>,
    /// Buckets that were as good as new at the last look.
    idle: HashSet<BucketKey>,
}

/// The limits of a policy that is on its way into the kernel.
pub(super) struct Prepared {
    limiters: Vec<Limiter>,
    zone: TimeZone,
}

impl LimitDesk {
    pub(super) fn new(book: Book) -> Self {
        Self {
            book,
            zone: TimeZone::UTC,
            limiters: Vec::new(),
            next_look: None,
            next_save: None,
            idle: HashSet::new(),
        }
    }

    /// When to look next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next_look
    }

    /// A flow was refused for a limit: those that follow are only counted, so look soon.
    pub(super) fn notice(&mut self) {
        let soon = Instant::now() + PAUSE;
        self.next_look = Some(self.next_look.map_or(soon, |due| due.min(soon)));
    }

    /// Gives the limits of `compiled` their numbers, and puts new ones on disk.
    pub(super) fn prepare(
        &mut self,
        compiled: &Compiled,
        ids: &[AgentId],
        now: Timestamp,
        boot_ns: u64,
    ) -> Result<Prepared, BookError> {
        let zone = match compiled.quota_time {
            QuotaTime::Utc => TimeZone::UTC,
            QuotaTime::Local => TimeZone::system(),
        };
        let narrower = compiled
            .limits
            .iter()
            .filter(|limits| limits.per != Scope::Identity)
            .count();
        let share = MAX_BUCKETS / u32::try_from(narrower.max(1)).unwrap_or(u32::MAX);
        let entries = share.clamp(1, MAX_BUCKETS_OF_ONE);
        let mut limiters = Vec::new();
        for wanted in &compiled.limits {
            let Some(&identity) = ids.get(wanted.identity) else {
                continue;
            };
            let name = name_of(compiled, wanted);
            let number = if wanted.rule.is_none() && wanted.per == Scope::Identity {
                identity.0
            } else {
                self.book.number(&name)?
            };
            let spans = |period| self.book.span(period, now, &zone, boot_ns);
            let limits = encode::encode(&wanted.limits, spans, entries);
            let known = self.limiters.iter().position(|it| it.name == name);
            let (windows, told) = known.map_or_else(Default::default, |at| {
                let known = &mut self.limiters[at];
                (std::mem::take(&mut known.windows), known.told)
            });
            limiters.push(Limiter {
                reference: LimiterRef::new(number, wanted.per),
                identity,
                index: wanted.identity,
                rule: wanted.rule,
                per: wanted.per,
                set: wanted.limits,
                limits,
                seen: LimitState::default(),
                windows,
                told,
                name,
            });
        }
        self.book.save()?;
        Ok(Prepared { limiters, zone })
    }

    fn has_bytes(&self) -> bool {
        self.limiters.iter().any(Limiter::has_bytes)
    }
}

impl Limiter {
    fn has_bytes(&self) -> bool {
        let set = &self.set;
        set.egress.is_some() || set.ingress.is_some() || self.has_quota()
    }

    fn has_quota(&self) -> bool {
        self.set.egress_quota.is_some() || self.set.ingress_quota.is_some()
    }

    fn has_flows(&self) -> bool {
        self.set.connections.is_some() || self.set.concurrent.is_some() || self.has_quota()
    }
}

impl Prepared {
    /// As the kernel gets them.
    pub(super) fn entries(&self) -> Vec<LimiterEntry> {
        self.limiters
            .iter()
            .map(|limiter| LimiterEntry {
                limiter: limiter.reference,
                identity: limiter.identity,
                rule: limiter.rule,
                limits: limiter.limits,
            })
            .collect()
    }

    /// `FLAG_*` bits of the identity at `index`, and its limiter by process, cgroup or destination.
    pub(super) fn of_identity(&self, index: usize) -> (u32, LimiterRef) {
        let mut flags = 0;
        let mut narrower = LimiterRef::NONE;
        for limiter in self.limiters.iter().filter(|it| it.index == index) {
            if limiter.rule.is_some() {
                flags |= FLAG_RULE_LIMITS;
            } else if limiter.has_flows() {
                flags |= FLAG_FLOW_LIMITS;
            }
            if limiter.has_bytes() {
                flags |= FLAG_BYTE_LIMITS;
            }
            if limiter.rule.is_none() && limiter.per != Scope::Identity {
                narrower = limiter.reference;
            }
        }
        (flags, narrower)
    }
}

/// The name that a limiter keeps its count by.
fn name_of(compiled: &Compiled, limits: &CompiledLimits) -> String {
    let mut name = compiled
        .identities
        .get(limits.identity)
        .map_or_else(String::new, |identity| identity.name.clone());
    if let Some(rule) = limits.rule
        && let Some(source) = compiled.rule_sources.get(rule as usize - 1)
    {
        name.push_str(" rule ");
        name.push_str(&source.name);
    }
    if limits.per != Scope::Identity {
        name.push_str(" per ");
        name.push_str(name_of_scope(limits.per));
    }
    name
}

impl Daemon {
    /// What an earlier boot has used of quotas, for limiters that no program has taken from yet.
    pub(super) fn restore_quotas(&mut self, prepared: &Prepared) -> Result<(), KernelError> {
        for limiter in prepared.limiters.iter().filter(|it| it.has_quota()) {
            let number = limiter.reference.number();
            let state = self.kernel.limit_state(number)?;
            if state != LimitState::default() {
                continue;
            }
            if let Some(Used { period, bytes }) = self.limits.book.used(&limiter.name) {
                self.kernel.restore_limit(
                    number,
                    LimitState {
                        used: bytes,
                        period,
                        ..state
                    },
                )?;
            }
        }
        Ok(())
    }

    /// The prepared limits are in force.
    pub(super) fn take_limits(&mut self, prepared: Prepared) {
        let desk = &mut self.limits;
        desk.limiters = prepared.limiters;
        desk.zone = prepared.zone;
        for limiter in &mut desk.limiters {
            match self.kernel.limit_state(limiter.reference.number()) {
                Ok(state) => limiter.seen = state,
                Err(error) => tracing::error!(%error, "a limit cannot be read"),
            }
        }
        let is_wanted = !desk.limiters.is_empty();
        desk.next_look = is_wanted.then(|| Instant::now() + PAUSE);
        desk.next_save = is_wanted.then(|| Instant::now() + SAVE_PAUSE);
    }

    /// Looks at what was used: tells what is new, moves the ends of periods where the clock was set, and
    /// saves.
    pub(super) fn look_at_limits(&mut self) {
        let time = Timestamp::now();
        let boot_ns = boot_now_ns();
        if let Err(error) = self.follow_limits(time, boot_ns) {
            tracing::error!(%error, "the limits cannot be read");
        }
        let now = Instant::now();
        if self.limits.next_save.is_some_and(|due| due <= now) {
            self.save_limits();
            self.sweep_buckets(boot_ns);
            self.limits.next_save = Some(now + SAVE_PAUSE);
        }
        let desk = &mut self.limits;
        // Bytes are counted without a word; of new flows the first one that is refused is told of.
        let is_busy = desk.has_bytes() || desk.limiters.iter().any(Limiter::has_open_window);
        desk.next_look = if is_busy {
            Some(now + PAUSE)
        } else {
            desk.next_save
        };
    }

    fn follow_limits(&mut self, time: Timestamp, boot_ns: u64) -> Result<(), KernelError> {
        for at in 0..self.limits.limiters.len() {
            let desk = &mut self.limits;
            let limiter = &mut desk.limiters[at];
            let number = limiter.reference.number();
            if limiter.has_quota() {
                let fresh = encode::encode(
                    &limiter.set,
                    |period| desk.book.span(period, time, &desk.zone, boot_ns),
                    limiter.limits.entries,
                );
                if is_moved(&limiter.limits, &fresh) {
                    self.kernel.set_limits(number, fresh)?;
                    limiter.limits = fresh;
                }
            }
            let state = self.kernel.limit_state(number)?;
            if limiter.has_quota() {
                desk.book.note_used(
                    &limiter.name,
                    Used {
                        period: state.period,
                        bytes: state.used,
                    },
                );
            }
            let limiter = &mut self.limits.limiters[at];
            let reports = limiter.news(&state, time, boot_ns);
            for report in reports {
                self.tell_of_limit(at, report);
            }
        }
        Ok(())
    }

    /// Puts what was used on disk.
    pub(super) fn save_limits(&mut self) {
        if let Err(error) = self.limits.book.save() {
            tracing::error!(%error, "what was used of quotas is not on disk");
        }
    }

    /// Removes the buckets that are full and without an open flow now and were so at the last look. One
    /// that is used at this very moment counts one flow less: it is full, so nothing else is lost.
    fn sweep_buckets(&mut self, boot_ns: u64) {
        let buckets = match self.kernel.buckets() {
            Ok(buckets) => buckets,
            Err(error) => {
                tracing::error!(%error, "the buckets cannot be read");
                return;
            }
        };
        let mut idle = HashSet::new();
        for (key, bucket) in buckets {
            let is_full =
                bucket.connect_ns <= boot_ns && bucket.bytes_ns.iter().all(|&ns| ns <= boot_ns);
            if bucket.open > 0 || !is_full {
                continue;
            }
            if !self.limits.idle.contains(&key) {
                idle.insert(key);
            } else if let Err(error) = self.kernel.remove_bucket(&key) {
                tracing::error!(%error, "a bucket cannot be removed");
            }
        }
        self.limits.idle = idle;
    }
}

/// Whether a period is another one, or ends at another time.
fn is_moved(old: &Limits, new: &Limits) -> bool {
    old.quota.iter().zip(&new.quota).any(|(old, new)| {
        let (was, is) = (PeriodEnd::from_word(old.end), PeriodEnd::from_word(new.end));
        was.number != is.number || was.end.abs_diff(is.end) > END_TOLERANCE
    })
}
