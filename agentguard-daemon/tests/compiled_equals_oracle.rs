//! The compiled policy answers every probe as the oracle does.

#[path = "oracle/oracle.rs"]
mod oracle;

use std::net::IpAddr;

use agentguard_common::{
    connection::{Address, Connection, Direction, Protocol},
    identity::{FLAG_ENFORCE, FLAG_RAW_SOCKETS, FLAG_RESTRICTED, NEVER},
    policy::NO_RULE,
    verdict::{Verdict, decide},
};
use agentguard_daemon::policy::{
    self, HostFacts, Source, Sources,
    compiled::{Compiled, CompiledIdentity, CompiledTables},
};
use oracle::{Answer, Dice, Probe};
use proptest::prelude::*;

const PROBES: usize = 500;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_equals_oracle(seed: u64) {
        let mut dice = Dice::new(seed);
        let policy = oracle::generate::policy(&mut dice);
        let compiled = compile(&policy.text);
        let tables = CompiledTables::new(&compiled);
        for _ in 0..PROBES {
            let identity = &policy.identities[dice.below(policy.identities.len())];
            let probe = oracle::generate::probe(&mut dice, &policy);
            let expected = oracle::judge(identity, &probe);
            let found = ask(&compiled, &tables, &identity.name, &probe);
            prop_assert_eq!(found, expected, "{} {:?}\n{}", identity.name, probe, policy.text);
        }
        for identity in &policy.identities {
            let record = find(&compiled, &identity.name).record(NEVER);
            let refuses = record.has(FLAG_RESTRICTED)
                && record.has(FLAG_ENFORCE)
                && !record.has(FLAG_RAW_SOCKETS);
            prop_assert_eq!(refuses, oracle::refuses_raw_sockets(identity), "{}", policy.text);
        }
    }
}

fn compile(text: &str) -> Compiled {
    let sources = Sources::from_files(vec![Source::new("generated.toml", text)]);
    let policy = policy::load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
    policy::compile(&policy, &HostFacts::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn find<'a>(compiled: &'a Compiled, name: &str) -> &'a CompiledIdentity {
    compiled
        .identities
        .iter()
        .find(|identity| identity.name == name)
        .expect("the identity is in the policy")
}

fn ask(compiled: &Compiled, tables: &CompiledTables<'_>, name: &str, probe: &Probe) -> Answer {
    let identity = find(compiled, name);
    let seconds = |time: i64| u64::try_from(time).expect("a time after 1970");
    let expires = identity
        .expires
        .map_or(NEVER, |time| seconds(time.as_second()));
    let remote = match probe.remote {
        IpAddr::V4(address) => Address::from_v4(address.octets()),
        IpAddr::V6(address) => Address(address.octets()),
    };
    let connection = Connection {
        direction: match probe.direction {
            oracle::Direction::Egress => Direction::Egress,
            oracle::Direction::Ingress => Direction::Ingress,
            oracle::Direction::Bind => Direction::Bind,
        },
        protocol: match probe.protocol {
            oracle::Protocol::Tcp => Protocol::Tcp,
            oracle::Protocol::Udp => Protocol::Udp,
            oracle::Protocol::Icmp => Protocol::Icmp,
            oracle::Protocol::Other => Protocol::Other,
        },
        // As the hooks of calls have it, and as those of packets do.
        remote: if probe.is_named {
            remote.destination()
        } else {
            remote
        },
        remote_port: probe.remote_port,
        local_port: probe.local_port,
    };
    let record = identity.record(expires);
    let decision = decide(tables, &record, &connection, seconds(probe.now));
    Answer {
        verdict: match decision.verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::WouldDeny => "would-deny",
        },
        rule: (decision.rule != NO_RULE).then(|| {
            compiled.rule_sources[decision.rule as usize - 1]
                .name
                .clone()
        }),
    }
}
