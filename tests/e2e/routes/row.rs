//! One row of the table: a route, what the bare kernel says to it, and what agentguard must.

use agentguard_tests::{
    network::Family,
    probe::{NOBODY, Origin, Route},
};

use super::attempt::Attempts;

/// What happens to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every call works and the packet arrives.
    Arrives,
    /// This call fails with this `errno`, and nothing leaves.
    Fails(&'static str, i32),
    /// No call need fail, but nothing leaves.
    Vanishes,
}

/// What the destinations of a row look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An address for each attempt.
    Host,
    /// A multicast group for each attempt.
    Group,
    /// The broadcast address of the wire is allowed, the one of all wires is not.
    Broadcast,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) route: Route,
    pub(crate) origin: Origin,
    pub(crate) families: &'static [Family],
    pub(crate) users: &'static [u32],
    pub(crate) kind: Kind,
    /// What nobody gets without agentguard; root gets [`Outcome::Arrives`].
    pub(crate) bare_nobody: Outcome,
    pub(crate) allowed: Outcome,
    pub(crate) denied: Outcome,
    /// Why the audit record says that the denied one was.
    pub(crate) reason: &'static str,
    /// Whether the opening packet holds the marker.
    pub(crate) carries_marker: bool,
    /// Cgroups between the identity's and the probe's.
    pub(crate) depth: usize,
    /// Whether the identity may open raw sockets.
    pub(crate) raw_sockets: bool,
}

/// Both families.
pub(crate) const BOTH: &[Family] = &[Family::V4, Family::V6];

impl Row {
    /// A route that works for everybody on the bare kernel, and that agentguard refuses at `step`
    /// where the destination is denied.
    pub(crate) const fn new(route: Route, step: &'static str) -> Self {
        Self {
            route,
            origin: Origin::Own,
            families: BOTH,
            users: &[0, NOBODY],
            kind: Kind::Host,
            bare_nobody: Outcome::Arrives,
            allowed: Outcome::Arrives,
            denied: Outcome::Fails(step, libc::EPERM),
            reason: "no-rule",
            carries_marker: true,
            depth: 0,
            raw_sockets: false,
        }
    }

    /// Only over this family.
    pub(crate) const fn only(self, families: &'static [Family]) -> Self {
        Self { families, ..self }
    }

    /// Nobody cannot take it, whatever agentguard says.
    pub(crate) const fn needs_root(self, step: &'static str, errno: i32) -> Self {
        Self {
            bare_nobody: Outcome::Fails(step, errno),
            ..self
        }
    }

    /// Refused wherever it goes.
    pub(crate) const fn refused(self, errno: i32, reason: &'static str) -> Self {
        let denied = match self.denied {
            Outcome::Fails(step, _) => Outcome::Fails(step, errno),
            other @ (Outcome::Arrives | Outcome::Vanishes) => other,
        };
        Self {
            allowed: denied,
            denied,
            reason,
            ..self
        }
    }

    /// Dropped without a word wherever it goes.
    pub(crate) const fn vanishes_everywhere(self, reason: &'static str) -> Self {
        Self {
            allowed: Outcome::Vanishes,
            denied: Outcome::Vanishes,
            reason,
            ..self
        }
    }

    /// From a socket or process with a history.
    pub(crate) const fn origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// Tries it in all combinations.
    pub(crate) fn check(self) {
        Attempts::new(self).check();
    }
}
