//! Metrics: what [`Status`] says, as OpenMetrics text for Prometheus, at a socket of its own.
//!
//! Label sets are bounded: identities are those of the policy in force, and everything else has a
//! handful of values.
#![forbid(unsafe_code)]

pub mod server;

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    audit::Balance,
    control::{LimitStatus, Status, Totals},
    policy::compiled::Class,
};

/// Separates the name of an identity from the variant of it.
const VARIANT: char = '?';

/// The whole text.
///
/// # Errors
///
/// Of formatting into memory, which does not fail.
pub fn render(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(status)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Exposition(Status);

/// An identity with its variants.
struct Identity {
    class: Class,
    counters: Totals,
    open: u64,
    events: Balance,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let status = &self.0;
        let identities = with_variants(status);
        let mut page = Page(encoder);
        page.of_identities(&identities)?;
        page.of_classes(status)?;
        page.of_limits(status)?;
        page.of_policy(status, identities.len() as u64)?;
        page.of_losses(status)?;
        page.of_history(status)?;
        page.of_sinks(status)?;
        page.of_process(status)
    }
}

fn with_variants(status: &Status) -> BTreeMap<&str, Identity> {
    let mut identities: BTreeMap<&str, Identity> = BTreeMap::new();
    for one in &status.identities {
        let name = one.name.split(VARIANT).next().unwrap_or(&one.name);
        let identity = identities.entry(name).or_insert_with(|| Identity {
            class: one.class,
            counters: Totals::default(),
            open: 0,
            events: Balance::default(),
        });
        identity.counters += one.counters;
        identity.open += one.open;
        identity.events += one.events;
    }
    identities
}

/// Writes one family of metrics after the other.
struct Page<'a>(DescriptorEncoder<'a>);

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl Page<'_> {
    fn of_identities(&mut self, identities: &BTreeMap<&str, Identity>) -> fmt::Result {
        let each = |values: fn(&Identity) -> Vec<(&'static str, &'static str, u64)>| {
            identities.iter().flat_map(move |(name, identity)| {
                let class = identity.class.name();
                values(identity).into_iter().map(move |(key, word, value)| {
                    let labels = [("identity", *name), ("class", class), (key, word)];
                    (labels, value)
                })
            })
        };
        self.counters(
            "agentguard_flows",
            "Judgements since the programs were first loaded: flows allowed, flows, packets, binds \
             and sockets denied, and what audit mode let pass.",
            None,
            each(|identity| flows(&identity.counters)),
        )?;
        self.counters(
            "agentguard",
            "IP bytes of closed flows since the programs were first loaded.",
            Some(&Unit::Bytes),
            each(|identity| bytes(&identity.counters)),
        )?;
        self.counters(
            "agentguard_flows_closed",
            "Flows closed since the programs were first loaded.",
            None,
            of_each(identities, |identity| identity.counters.closed),
        )?;
        self.gauges(
            "agentguard_flows_open",
            "Flows open now.",
            of_each(identities, |identity| identity.open),
        )?;
        self.counters(
            "agentguard_events_produced",
            "Events to be accounted for: produced by the kernel programs since the daemon started, \
             or left in the ring by an earlier daemon. All of agentguard_events_total and \
             agentguard_events_pending together.",
            None,
            of_each(identities, |identity| {
                identity.events.produced + identity.events.inherited
            }),
        )?;
        self.counters(
            "agentguard_events",
            "Events by what became of them since the daemon started: delivered as a record of \
             their own, folded into a record with its count, or dropped because the ring was full.",
            None,
            each(|Identity { events, .. }| {
                vec![
                    ("fate", "delivered", events.delivered),
                    ("fate", "folded", events.folded),
                    ("fate", "dropped", events.dropped),
                ]
            }),
        )?;
        self.gauges(
            "agentguard_events_pending",
            "Events whose fate is open: held until the end of their window, or unread in the ring. \
             Those that did not decode stay unread.",
            each(|Identity { events, .. }| {
                vec![
                    ("state", "held", events.held),
                    ("state", "unread", events.unread),
                ]
            }),
        )
    }

    fn of_classes(&mut self, status: &Status) -> fmt::Result {
        let each = |values: fn(&Totals) -> Vec<(&'static str, &'static str, u64)>| {
            status.totals.iter().flat_map(move |total| {
                let class = total.class.name();
                values(&total.counters)
                    .into_iter()
                    .map(move |(key, word, value)| ([("class", class), (key, word)], value))
            })
        };
        self.counters(
            "agentguard_class_flows",
            "The sum of agentguard_flows_total over the identities in force. It falls when policy \
             gives one up.",
            None,
            each(flows),
        )?;
        self.counters(
            "agentguard_class",
            "The sum of agentguard_bytes_total over the identities in force. It falls when policy \
             gives one up.",
            Some(&Unit::Bytes),
            each(bytes),
        )
    }

    fn of_limits(&mut self, status: &Status) -> fmt::Result {
        let each = |value: fn(&LimitStatus) -> u64| {
            status.limits.iter().map(move |limit| {
                let labels = [
                    ("identity", limit.identity.as_str()),
                    ("limit", limit.limit.as_str()),
                    ("rule", limit.rule.as_deref().unwrap_or_default()),
                    ("per", limit.per.as_str()),
                ];
                (labels, value(limit))
            })
        };
        self.gauges(
            "agentguard_limit_used",
            "What is taken of each limit in force: flows, or IP bytes for bandwidths and quotas. \
             Where processes, cgroups or destinations are counted apart, by the one that has taken \
             most.",
            each(|limit| limit.used),
        )?;
        self.gauges(
            "agentguard_limit_most",
            "The most that can be taken of each limit in force.",
            each(|limit| limit.most),
        )?;
        self.counters(
            "agentguard_limit_refused",
            "New flows or packets over each limit in force since the programs were first loaded.",
            None,
            each(|limit| limit.refused),
        )
    }

    fn of_policy(&mut self, status: &Status, identities: u64) -> fmt::Result {
        self.gauge(
            "agentguard_generation",
            "Generation of the policy in force.",
            None,
            status.generation,
        )?;
        self.gauge(
            "agentguard_policy_identities",
            "Identities of the policy in force, the built-in ones among them; 0 if it was adopted \
             from an earlier daemon and could not be read anew.",
            None,
            identities,
        )?;
        self.counter(
            "agentguard_policy_rejected",
            "Policies refused since the daemon started.",
            status.policies_rejected,
        )
    }

    fn of_losses(&mut self, status: &Status) -> fmt::Result {
        self.counter(
            "agentguard_events_undecodable",
            "Events that did not decode since the daemon started.",
            status.events_undecodable,
        )?;
        self.counter(
            "agentguard_cgroup_events_lost",
            "Reports of cgroups that did not decode since the daemon started.",
            status.cgroup_events_lost,
        )?;
        self.counter(
            "agentguard_process_labels_lost",
            "Labels of processes that found the map full since the programs were first loaded.",
            status.process_labels_lost,
        )?;
        self.counter(
            "agentguard_process_events_lost",
            "Reports of execs that found the ring full since the programs were first loaded.",
            status.process_events_lost,
        )
    }

    fn of_sinks(&mut self, status: &Status) -> fmt::Result {
        self.counters(
            "agentguard_sink_records",
            "Records that a sink has had, those of them that its receiver refused, and attempts that failed, since the daemon started.",
            None,
            status.sinks.iter().flat_map(|sink| {
                [
                    ("delivered", sink.delivered),
                    ("refused", sink.refused),
                    ("retried", sink.retries),
                ]
                .map(|(fate, records)| {
                    ([("sink", sink.name.as_str()), ("fate", fate)], records)
                })
            }),
        )?;
        self.gauges(
            "agentguard_sink_records_waiting",
            "Records in the history that the sink does not have yet.",
            status
                .sinks
                .iter()
                .map(|sink| ([("sink", sink.name.as_str())], sink.waiting)),
        )
    }

    fn of_history(&mut self, status: &Status) -> fmt::Result {
        let history = &status.history;
        self.counter(
            "agentguard_history_records",
            "Records written to the history, ever.",
            history.last,
        )?;
        let bytes = Some(&Unit::Bytes);
        self.gauge(
            "agentguard_history",
            "Size of the history.",
            bytes,
            history.bytes,
        )?;
        self.gauge(
            "agentguard_history_undelivered",
            "Size of what some sink does not have yet.",
            bytes,
            history.undelivered_bytes,
        )?;
        self.gauge(
            "agentguard_history_max",
            "The most that the history may have.",
            bytes,
            history.max_bytes,
        )?;
        self.gauge(
            "agentguard_history_records_unwritten",
            "Records that wait to be written to the history.",
            None,
            history.waiting,
        )?;
        self.gauge(
            "agentguard_history_broken",
            "1 while the history cannot be written.",
            None,
            history.last_error.is_some().into(),
        )?;
        self.gauge(
            "agentguard_history_refuses_flows",
            "1 while no identity may open a flow, since the history has no room.",
            None,
            history.refuses_flows.into(),
        )
    }

    fn of_process(&mut self, status: &Status) -> fmt::Result {
        self.gauge(
            "agentguard_programs_attached",
            "Kernel programs attached.",
            None,
            status.programs.len() as u64,
        )?;
        self.gauge(
            "agentguard_degraded",
            "Features that the kernel lacks and the daemon goes on without.",
            None,
            status.degraded.len() as u64,
        )?;
        self.gauge(
            "agentguard_start_time",
            "When the daemon started, since the Unix epoch.",
            Some(&Unit::Seconds),
            status.started.as_second().unsigned_abs(),
        )?;
        self.0
            .encode_descriptor(
                "agentguard_build",
                "Version of the daemon.",
                None,
                MetricType::Info,
            )?
            .encode_info(&[("version", status.version.as_str())])
    }

    /// The library adds the unit and `_total` to the name.
    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl Iterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?
            .encode_gauge(&value)
    }
}

fn of_each<'a>(
    identities: &'a BTreeMap<&str, Identity>,
    value: fn(&Identity) -> u64,
) -> impl Iterator<Item = (Labels<'a, 2>, u64)> {
    identities.iter().map(move |(name, identity)| {
        let labels = [("identity", *name), ("class", identity.class.name())];
        (labels, value(identity))
    })
}

fn flows(totals: &Totals) -> Vec<(&'static str, &'static str, u64)> {
    vec![
        ("verdict", "allow", totals.allowed),
        ("verdict", "deny", totals.denied),
        ("verdict", "would-deny", totals.would_deny),
    ]
}

fn bytes(totals: &Totals) -> Vec<(&'static str, &'static str, u64)> {
    vec![
        ("direction", "out", totals.bytes_out),
        ("direction", "in", totals.bytes_in),
    ]
}

#[cfg(test)]
mod tests;
