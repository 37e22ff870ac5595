//! The kernel answers every probe as an independent linear scan over the policy does.

#[path = "../../agentguard-daemon/tests/oracle/oracle.rs"]
mod oracle;

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use agentguard_tests::{cgroup::Cgroup, daemon::Daemon, judge::Judge, sandbox::Sandbox};
use oracle::{Dice, Direction, Identity, Policy, Probe, Protocol};

const POLICIES: u64 = 200;
const PROBES: usize = 5_000;

#[test]
fn the_kernel_judges_as_the_oracle_does() {
    let sandbox = Sandbox::new();
    let mut dice = Dice::new(0x6167_656e_7467_7561);
    let first = oracle::generate::policy(&mut dice);
    let daemon = Daemon::start(&sandbox, &first.text);
    let mut cgroups: HashMap<String, Cgroup> = HashMap::new();
    let mut asked = 0;
    let mut refused = 0;
    for round in 0..POLICIES {
        let policy = oracle::generate::policy(&mut dice);
        let identity = &policy.identities[dice.below(policy.identities.len())];
        let place = place_of(identity);
        // It is there before the policy is, so that the reload labels it.
        let cgroup = cgroups
            .entry(place)
            .or_insert_with_key(|place| sandbox.cgroup(place));
        daemon.reload(&policy.text);
        let mut judge = Judge::start(&sandbox.agent(cgroup));
        let probes = probes_of(&mut dice, &policy);
        for (probe, is_refused) in probes.iter().zip(judge.ask(probes.iter().map(target))) {
            let expected = oracle::judge(identity, probe);
            assert_eq!(
                is_refused,
                expected.verdict == "deny",
                "round {round}, {} to {}:{}: {expected:?}\n{}",
                identity.name,
                probe.remote,
                probe.remote_port,
                policy.text
            );
            asked += 1;
            refused += u64::from(is_refused);
        }
    }
    assert_eq!(asked, POLICIES * PROBES as u64);
    // A kernel that refuses nothing, or everything, would agree with a broken oracle too easily.
    assert!(
        refused > asked / 20 && refused < asked - asked / 20,
        "{refused} of {asked}"
    );
}

/// The cgroup that makes a process this identity.
fn place_of(identity: &Identity) -> String {
    match identity.name.as_str() {
        "unknown" => "elsewhere".into(),
        "unknown-agent" => "agents.slice".into(),
        name => name.into(),
    }
}

/// What a UDP `connect` on an unbound socket asks.
fn probes_of(dice: &mut Dice, policy: &Policy) -> Vec<Probe> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    (0..PROBES)
        .map(|_| Probe {
            direction: Direction::Egress,
            protocol: Protocol::Udp,
            // Port 0 is asked about too: the hook runs for it as for any other.
            local_port: 0,
            now: i64::try_from(now.as_secs()).expect("it is before the end of time"),
            ..oracle::generate::probe(dice, policy)
        })
        .collect()
}

fn target(probe: &Probe) -> SocketAddr {
    SocketAddr::new(probe.remote, probe.remote_port)
}
