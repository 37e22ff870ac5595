//! Policies as large as they may be, and larger ones.

use std::{fmt::Write, net::Ipv4Addr};

use agentguard_tests::{daemon::Daemon, judge::Judge, sandbox::Sandbox, world::PORT};

use crate::scene::{ENFORCED, Scene, policy};

const IDENTITIES: u32 = 1_000;
const ADDRESSES: u32 = 100_000;
const EACH: u32 = ADDRESSES / IDENTITIES;
/// What the daemon of such a policy may have, as built for people. Far more than the 40 MiB that are
/// wanted: reading it takes more for a moment, and the allocator keeps what it once had.
const MAX_RESIDENT_KIB: u64 = 128 << 10;

#[test]
fn a_thousand_identities_and_a_hundred_thousand_addresses_fit() {
    let sandbox = Sandbox::new();
    let owners = [0, IDENTITIES / 2, IDENTITIES - 1];
    let cgroups = owners.map(|own| sandbox.cgroup(format!("bot-{own}")));
    let mut daemon = Daemon::prepare(&sandbox, &large());
    daemon.use_release();
    daemon.restart();
    assert_eq!(daemon.status()["generation"], 1);

    for (own, cgroup) in owners.into_iter().zip(&cgroups) {
        let mut judge = Judge::start(&sandbox.agent(cgroup));
        let other = (own + 1) % IDENTITIES;
        let questions = [
            (address(own, 0), false),
            (address(own, EACH - 1), false),
            (between(address(own, 0)), true),
            (between(address(own, EACH - 1)), true),
            (address(other, 0), true),
            (address(other, EACH - 1), true),
        ];
        let answers = judge.ask(questions.map(|(address, _)| (address, PORT).into()));
        for ((address, refused), answer) in questions.into_iter().zip(answers) {
            assert_eq!(answer, refused, "{address} for bot-{own}");
        }
    }

    let loaded = daemon.resident_kib();
    assert!(loaded < MAX_RESIDENT_KIB, "the daemon has {loaded} KiB");
    daemon.reload(&large());
    assert_eq!(daemon.status()["generation"], 2);
    let reloaded = daemon.resident_kib();
    assert!(
        reloaded < MAX_RESIDENT_KIB,
        "the daemon has {reloaded} KiB after a reload, {loaded} before"
    );
}

#[test]
fn a_policy_that_does_not_fit_is_refused_whole() {
    let scene = Scene::new();
    let mut daemon = Daemon::prepare(&scene.sandbox, &policy(""));
    daemon.use_release();
    daemon.restart();
    let mut judge = scene.judge();
    for (text, wanted) in [
        (crowded(), "on their rules; 8176 fit"),
        (
            entangled(),
            "more than 1000000 combinations of identity, address class and port class",
        ),
    ] {
        daemon.write_policy(&text);
        let output = daemon.cli(&["reload", "--wait"]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(wanted), "{wanted:?} in {said}");
        assert!(said.contains("help:"), "no mend in {said}");
        let status = daemon.status();
        assert_eq!(status["generation"], 1);
        let identities = status["identities"].as_array().map(Vec::len);
        assert_eq!(identities, Some(6), "the built-in ones and the one of old");
        assert_eq!(scene.refusals(&mut judge), ENFORCED);
        let check = daemon.cli(&["policy", "check"]);
        assert_eq!(check.status.code(), Some(1), "it is refused offline too");
    }
}

/// The addresses that the identity `owner` may reach: every other one, so that none can be joined.
fn address(owner: u32, number: u32) -> Ipv4Addr {
    let first = u32::from(Ipv4Addr::new(10, 64, 0, 0));
    (first + 2 * (owner * EACH + number)).into()
}

/// The address behind, which nobody may reach.
fn between(address: Ipv4Addr) -> Ipv4Addr {
    (u32::from(address) + 1).into()
}

fn large() -> String {
    let mut text = String::new();
    for owner in 0..IDENTITIES {
        let addresses: Vec<String> = (0..EACH)
            .map(|number| format!("\"{}\"", address(owner, number)))
            .collect();
        write!(
            text,
            "[zones.z{owner}]\naddresses = [{}]\n[[roles.r{owner}.egress]]\nzones = [\"z{owner}\"]\n",
            addresses.join(", ")
        )
        .expect("a string grows");
        identity(&mut text, owner, &format!("r{owner}"));
    }
    text
}

/// More identities than there are numbers.
fn crowded() -> String {
    let mut text = "[[roles.r.egress]]\nzones = [\"any\"]\n".to_owned();
    for number in 0..8_200 {
        identity(&mut text, number, "r");
    }
    text
}

/// Not much text: a thousand roles allow everything, and one tells a thousand addresses apart.
fn entangled() -> String {
    let mut text = String::new();
    for number in 0..1_000 {
        let address = address(number, 0);
        write!(
            text,
            "[[roles.many.egress]]\naddresses = [\"{address}\"]\n\
             [[roles.r{number}.egress]]\nzones = [\"any\"]\n"
        )
        .expect("a string grows");
        identity(&mut text, number, &format!("r{number}"));
    }
    identity(&mut text, 1_000, "many");
    text
}

fn identity(text: &mut String, number: u32, role: &str) {
    write!(
        text,
        "[identities.bot-{number}]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"{role}\"]\n\
         match = [{{ cgroup = \"/bot-{number}\" }}]\n"
    )
    .expect("a string grows");
}
