//! People, scheduled jobs and services of hosts whose policy does not name them.
#![forbid(unsafe_code)]

use agentguard_common::cgroup::Rank;

use super::context::Context;
use crate::policy::compiled::{CRON, HUMAN, SERVICE};

/// Daemons that run scheduled jobs.
const CRON_UNITS: [&str; 9] = [
    "cron.service",
    "crond.service",
    "cronie.service",
    "anacron.service",
    "fcron.service",
    "bcron.service",
    "dcron.service",
    "busybox-crond.service",
    "atd.service",
];

/// The built-in identity that begins at a cgroup, with its rank; what is below it inherits that.
pub(super) fn of(context: &Context) -> Option<(usize, Rank)> {
    let class = context
        .session
        .as_ref()
        .and_then(|session| session.class.as_deref())
        .unwrap_or_default();
    let unit = context.unit.as_deref().unwrap_or_default();
    let is_slice = |name: &str| unit == name && context.slices.len() == 1;
    // Jobs of cron are given sessions of class `background`, also in the slice of their user.
    let scheduled = context.cron
        || context.timer
        || CRON_UNITS.contains(&unit)
        || class.starts_with("background");
    if scheduled {
        Some((CRON, Rank::Default))
    } else if is_slice("user.slice") || class.starts_with("user") {
        Some((HUMAN, Rank::Session))
    } else if is_slice("system.slice") {
        Some((SERVICE, Rank::Default))
    } else {
        None
    }
}
