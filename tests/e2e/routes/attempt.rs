//! Tries a row in all combinations and compares with what it says.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use agentguard_tests::{
    audit,
    cgroup::Cgroup,
    daemon::Daemon,
    network::{ALLOWED_ZONE, Family, WIRE_BROADCAST, Zone},
    probe::{Origin, Report, Spec},
    sandbox::Sandbox,
    world::PORT,
};

use super::row::{Kind, Outcome, Row};

/// Whom the probes belong to.
const IDENTITY: &str = "route-taker";

/// A row and the sandbox that it is tried in.
pub(crate) struct Attempts {
    row: Row,
    // Cgroups are dropped before the tree that holds them.
    start: Cgroup,
    agent: Cgroup,
    pub(crate) sandbox: Sandbox,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Combination {
    uid: u32,
    family: Family,
    zone: Zone,
}

impl Attempts {
    pub(crate) fn new(row: Row) -> Self {
        let sandbox = Sandbox::new();
        let agent = sandbox.cgroup("agent");
        let start = match row.origin {
            Origin::Own | Origin::OwnNamespaces => {
                let mut below = String::from("agent/inside");
                for level in 1..row.depth {
                    below.push_str(&format!("/level-{level}"));
                }
                sandbox.cgroup(&below)
            }
            Origin::MovedUnconnected
            | Origin::MovedConnected
            | Origin::Inherited
            | Origin::PassedUnconnected
            | Origin::PassedConnected
            | Origin::Born
            | Origin::NewChild
            | Origin::Left => sandbox.cgroup("outside"),
        };
        Self {
            row,
            start,
            agent,
            sandbox,
        }
    }

    /// First without agentguard: a route that is broken anyhow would prove nothing.
    pub(crate) fn check(&self) {
        for combination in self.combinations() {
            let spec = self.spec(combination);
            self.attempt(
                &spec,
                self.bare(combination),
                combination,
                "without agentguard",
            );
        }
        let daemon = Daemon::start(&self.sandbox, &self.policy());
        for combination in self.combinations() {
            let spec = self.spec(combination);
            let expected = match (self.bare(combination), combination.zone) {
                (Outcome::Arrives, Zone::Allowed) => self.row.allowed,
                (Outcome::Arrives, Zone::Denied) => self.row.denied,
                // The kernel refuses it before agentguard is asked.
                (bare @ (Outcome::Fails(..) | Outcome::Vanishes), _) => {
                    self.attempt(&spec, bare, combination, "under agentguard");
                    continue;
                }
            };
            let counter = match expected {
                Outcome::Arrives => "allowed",
                Outcome::Fails(..) | Outcome::Vanishes => "denied",
            };
            let before = daemon.counter(IDENTITY, "counters", counter);
            self.attempt(&spec, expected, combination, "under agentguard");
            let after = daemon.counter(IDENTITY, "counters", counter);
            assert!(
                after > before,
                "{combination:?}: `{counter}` stayed at {before}"
            );
            self.find_record(&daemon, &spec, expected);
        }
    }

    /// What the kernel alone does.
    fn bare(&self, combination: Combination) -> Outcome {
        if combination.uid == 0 {
            Outcome::Arrives
        } else {
            self.row.bare_nobody
        }
    }

    fn policy(&self) -> String {
        let [v4, v6] = ALLOWED_ZONE;
        format!(
            r#"
            [roles.route]
            raw-sockets = {raw_sockets}
            [[roles.route.egress]]
            addresses = ["{v4}", "{v6}", "239.1.0.0/16", "ff05:1::/32", "{WIRE_BROADCAST}"]
            [identities.{IDENTITY}]
            class = "agent"
            owner = "owner@example.com"
            purpose = "take a route"
            environment = "test"
            roles = ["route"]
            mode = "enforce"
            [[identities.{IDENTITY}.match]]
            cgroup = "/agent"
            "#,
            raw_sockets = self.row.raw_sockets,
        )
    }

    /// The record must name the identity, what was asked for, and why it ended so.
    fn find_record(&self, daemon: &Daemon, spec: &Spec, expected: Outcome) {
        let (verdict, reason) = match expected {
            Outcome::Arrives => ("allow", "rule"),
            Outcome::Fails(..) | Outcome::Vanishes => ("deny", self.row.reason),
        };
        // A socket that is refused has no destination yet, and repeats of it are folded.
        let names_target = !matches!(expected, Outcome::Fails("socket", _));
        let address = spec.address().to_string();
        daemon
            .events()
            .wait_for(&format!("{verdict} {reason} {address}"), |event| {
                audit::identity(event) == IDENTITY
                    && audit::own(event, "verdict") == verdict
                    && audit::own(event, "reason") == reason
                    && (!names_target || event["dst_endpoint"]["ip"] == address)
            });
    }

    fn combinations(&self) -> Vec<Combination> {
        let mut all = Vec::new();
        for &uid in self.row.users {
            for &family in self.row.families {
                for zone in [Zone::Allowed, Zone::Denied] {
                    all.push(Combination { uid, family, zone });
                }
            }
        }
        all
    }

    fn spec(&self, combination: Combination) -> Spec {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Combination { uid, family, zone } = combination;
        let network = &self.sandbox.network;
        let host = network.fresh(family, zone);
        let address = match self.row.kind {
            Kind::Host => host,
            Kind::Group => group_of(host),
            Kind::Broadcast if zone == Zone::Allowed => WIRE_BROADCAST.into(),
            Kind::Broadcast => Ipv4Addr::BROADCAST.into(),
        };
        let marker = NEXT.fetch_add(1, Ordering::Relaxed);
        Spec {
            route: self.row.route,
            to: SocketAddr::new(address, PORT),
            decoy: SocketAddr::new(network.fresh(family, Zone::Allowed), PORT),
            marker: format!("agentguard-probe-{marker:08}."),
            uid,
            origin: self.row.origin,
            cgroup: self.agent.path().to_owned(),
            pause: false,
        }
    }

    fn attempt(&self, spec: &Spec, expected: Outcome, combination: Combination, when: &str) {
        let report = self.sandbox.agent(&self.start).run(spec);
        self.sandbox.sniffer.settle(&self.sandbox.network);
        let context = format!("{:?} {combination:?} {when}", self.row.route);
        match expected {
            Outcome::Arrives => assert_eq!(report, Report::Done, "{context}"),
            Outcome::Fails(step, errno) => {
                let step = step.to_owned();
                assert_eq!(report, Report::Failed { step, errno }, "{context}");
            }
            Outcome::Vanishes => {}
        }
        let arrived = self.arrived(spec);
        assert_eq!(
            arrived > 0,
            expected == Outcome::Arrives,
            "{context}: {arrived} packets arrived; the probe said {report:?}"
        );
    }

    /// Packets of the attempt that left for its destination.
    fn arrived(&self, spec: &Spec) -> usize {
        let is_own_address = self.row.kind != Kind::Broadcast;
        let sniffer = &self.sandbox.sniffer;
        if self.row.carries_marker && sniffer.count(|packet| packet.carries(&spec.marker)) > 0 {
            // It must not have gone astray either: only the decoy may see it besides.
            return sniffer.count(|packet| {
                packet.carries(&spec.marker) && packet.destination != spec.decoy.ip()
            });
        }
        sniffer.count(|packet| packet.destination == spec.address() && is_own_address)
    }
}

/// A multicast group that tells the same zone and attempt apart as `host` does.
fn group_of(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) => {
            let [_, zone, high, low] = host.octets();
            Ipv4Addr::new(239, zone, high, low).into()
        }
        IpAddr::V6(host) => {
            let [_, zone, .., attempt] = host.segments();
            Ipv6Addr::new(0xff05, zone, 0, 0, 0, 0, 0, attempt).into()
        }
    }
}
