//! The shapes of limits.

use schemars::JsonSchema;

/// Limits of each class.
#[derive(JsonSchema, Default, serde::Serialize)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ClassLimits {
    /// AI agents.
    agent: Option<LimitsTable>,
    /// Build and test jobs.
    ci: Option<LimitsTable>,
    /// Scheduled jobs.
    cron: Option<LimitsTable>,
    /// Long-running services.
    service: Option<LimitsTable>,
    /// People.
    human: Option<LimitsTable>,
    /// What nobody knows.
    unknown: Option<LimitsTable>,
}

/// Limits. What is over them is told to try again later (EAGAIN).
#[derive(JsonSchema, serde::Serialize)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct LimitsTable {
    /// New flows that the identity opens: TCP connections, connected UDP sockets, and peers of others.
    connections: Option<Connections>,
    /// Open flows, whoever opened them.
    #[schemars(range(min = 1, max = 10_000_000))]
    concurrent: Option<u32>,
    /// IP bytes out: `10Mbit/s`, `1MiB/s`.
    #[schemars(regex(
        pattern = r"^[0-9.]+ *(k|M|G)?bit */ *s$|^[0-9.]+ *([kMGT]|[KMGT]i)?B */ *s$"
    ))]
    egress: Option<String>,
    /// IP bytes in.
    #[schemars(regex(
        pattern = r"^[0-9.]+ *(k|M|G)?bit */ *s$|^[0-9.]+ *([kMGT]|[KMGT]i)?B */ *s$"
    ))]
    ingress: Option<String>,
    /// IP bytes out in an hour, a day or a month: `5GiB/day`.
    #[schemars(regex(pattern = r"^[0-9.]+ *([kMGT]|[KMGT]i)?B */ *(hour|day|month)$"))]
    egress_quota: Option<String>,
    /// IP bytes in, in an hour, a day or a month.
    #[schemars(regex(pattern = r"^[0-9.]+ *([kMGT]|[KMGT]i)?B */ *(hour|day|month)$"))]
    ingress_quota: Option<String>,
    /// What is counted apart; `identity` unless set.
    per: Option<Scope>,
    /// What happens to a flow over the limit; `error` unless set.
    on_limit: Option<OnLimit>,
    /// What ends with a quota; `new-flows` unless set.
    on_quota: Option<OnQuota>,
}

#[derive(JsonSchema, serde::Serialize)]
#[schemars(untagged)]
enum Connections {
    /// `20/s`, `100/min`, `1000/hour`; as many at once as one second gives, at least one.
    Rate(#[schemars(regex(pattern = r"^[1-9][0-9]* */ *(s|min|hour)$"))] String),
    /// The same, with how many may come at once.
    Table(RateTable),
}

/// A rate.
#[derive(JsonSchema, serde::Serialize)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct RateTable {
    /// `20/s`, `100/min`, `1000/hour`.
    #[schemars(regex(pattern = r"^[1-9][0-9]* */ *(s|min|hour)$"))]
    rate: String,
    /// How many may come at once.
    #[schemars(range(min = 1, max = 10_000_000))]
    burst: Option<u32>,
}

#[derive(JsonSchema, serde::Serialize)]
#[schemars(rename_all = "kebab-case")]
enum Scope {
    /// Nothing: the identity as a whole.
    Identity,
    /// Each process.
    Process,
    /// Each cgroup.
    Cgroup,
    /// Each remote address.
    Destination,
}

#[derive(JsonSchema, serde::Serialize)]
#[schemars(rename_all = "kebab-case")]
enum OnLimit {
    /// It fails with EAGAIN.
    Error,
    /// It passes, and is recorded.
    Audit,
}

#[derive(JsonSchema, serde::Serialize)]
#[schemars(rename_all = "kebab-case")]
enum OnQuota {
    /// New flows are refused.
    NewFlows,
    /// All packets are dropped.
    AllPackets,
}
