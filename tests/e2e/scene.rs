//! What most tests play in: one identity that may reach the allowed zone and nothing else.

use std::net::{IpAddr, SocketAddr};

use agentguard_tests::{
    agent::Probe,
    cgroup::Cgroup,
    judge::Judge,
    network::{ALLOWED_ZONE, Family, Zone},
    probe::{Origin, Route, Spec},
    sandbox::Sandbox,
    world::PORT,
};

/// One identity that may reach the allowed zone, with more lines for it.
pub(crate) fn policy(identity: &str) -> String {
    let [v4, v6] = ALLOWED_ZONE;
    format!(
        "[roles.r]\n[[roles.r.egress]]\naddresses = [\"{v4}\", \"{v6}\"]\n\
         [identities.bot]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"r\"]\n\
         match = [{{ cgroup = \"/bot\" }}]\n{identity}\n"
    )
}

/// What [`Scene::refusals`] says where the policy is in force.
pub(crate) const ENFORCED: [bool; 2] = [true, false];

/// An attempt by TCP from inside the cgroup.
pub(crate) fn spec(to: IpAddr, pause: bool) -> Spec {
    Spec {
        route: Route::Tcp,
        to: SocketAddr::new(to, PORT),
        decoy: SocketAddr::new(to, PORT),
        marker: format!("agentguard-scene-{to}."),
        uid: 0,
        origin: Origin::Own,
        cgroup: Default::default(),
        pause,
    }
}

/// A sandbox, and the cgroup of the identity in it.
pub(crate) struct Scene {
    // Cgroups are dropped before the tree that holds them.
    pub(crate) cgroup: Cgroup,
    pub(crate) sandbox: Sandbox,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let sandbox = Sandbox::new();
        let cgroup = sandbox.cgroup("bot");
        Self { cgroup, sandbox }
    }

    /// An address that no other attempt has used.
    pub(crate) fn target(&self, zone: Zone) -> IpAddr {
        self.sandbox.network.fresh(Family::V4, zone)
    }

    /// Somebody of the identity who asks for verdicts.
    pub(crate) fn judge(&self) -> Judge {
        Judge::start(&self.sandbox.agent(&self.cgroup))
    }

    /// A TCP connection to the allowed zone that waits before it sends its marker.
    pub(crate) fn connect(&self) -> (Probe, Spec) {
        let spec = spec(self.target(Zone::Allowed), true);
        let mut probe = self.sandbox.agent(&self.cgroup).start(&spec);
        probe.wait_ready();
        (probe, spec)
    }

    /// Whether the attempt got out.
    pub(crate) fn marker_arrived(&self, spec: &Spec) -> bool {
        self.sandbox.sniffer.settle(&self.sandbox.network);
        self.sandbox
            .sniffer
            .count(|packet| packet.carries(&spec.marker))
            > 0
    }

    /// Whether the identity is refused the denied zone, and the allowed one.
    pub(crate) fn refusals(&self, judge: &mut Judge) -> [bool; 2] {
        let targets = [Zone::Denied, Zone::Allowed].map(|zone| self.target(zone));
        let answers = judge.ask(targets.map(|to| SocketAddr::new(to, PORT)));
        [answers[0], answers[1]]
    }
}
