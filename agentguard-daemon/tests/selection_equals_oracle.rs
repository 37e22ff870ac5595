//! Who a process is by the compiled policy is who it is by a plain scan over its selectors, for random
//! policies and processes.

#[path = "oracle/oracle.rs"]
mod oracle;
#[path = "oracle/selection.rs"]
mod selection;

use agentguard_common::fact::{KIND_USER, LOGIN, ON_HOST};
use agentguard_daemon::{
    identity::{
        context::Context,
        resolve::{self, Known, Process},
        select::select,
    },
    policy::{self, HostFacts, Source, Sources, compiled::Compiled, selection::Choice},
};
use oracle::Dice;
use proptest::prelude::*;
use selection::{Model, Probe};

const PROBES: usize = 200;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn selection_equals_oracle(seed: u64) {
        let mut dice = Dice::new(seed);
        let (model, compiled) = valid_policy(&mut dice);
        for _ in 0..PROBES {
            let probe = selection::probe(&mut dice);
            let found = ask(&compiled, &probe);
            let found = &compiled.identities[found].name;
            let expected = selection::judge(&model, &probe);
            prop_assert!(
                expected.contains(&found.as_str()),
                "{found}, not {expected:?}: {probe:?}\n{}", model.text
            );
        }
    }
}

/// A policy whose identities do not contradict each other: those that do are thrown away, and must be
/// such by the oracle, too.
fn valid_policy(dice: &mut Dice) -> (Model, Compiled) {
    for _ in 0..1_000 {
        let model = selection::model(dice);
        let sources = Sources::from_files(vec![Source::new("generated.toml", &*model.text)]);
        let policy = policy::load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
        match policy::compile(&policy, &HostFacts::default()) {
            Ok(compiled) => return (model, compiled),
            Err(errors) => assert!(
                selection::may_contradict(&model),
                "{errors}\n{}",
                model.text
            ),
        }
    }
    panic!("no policy without contradictions");
}

/// As the kernel finds it.
fn ask(compiled: &Compiled, probe: &Probe) -> usize {
    let selection = &compiled.selection;
    let chain = Context::chain_of_path(probe.cgroup);
    let chain: Vec<&Context> = chain.iter().collect();
    let selected = select(compiled, &chain);
    let mut facts = selected.facts;
    let users = selection.users.iter();
    facts |= users
        .filter(|user| user.kind == KIND_USER && user.id == probe.user)
        .fold(0, |all, user| all | user.facts);
    facts |= if probe.login { LOGIN } else { 0 };
    facts |= if probe.on_host { ON_HOST } else { 0 };
    if let Some(parent) = selection.set_of(probe.parent.as_bytes()) {
        facts |= parent.parent_facts;
    }
    let own = selection.set_of(probe.executable.as_bytes());
    let holds = |choice: &&Choice| {
        facts & choice.required == choice.required && facts & choice.forbidden == 0
    };
    let by_executable = own.and_then(|set| set.choices.iter().find(holds));
    let by_cgroup = || selected.choices.iter().find(holds);
    let found = by_executable
        .or_else(by_cgroup)
        .map_or(selected.index, |choice| choice.identity);
    let resolved = resolve::resolve(
        compiled,
        &selected,
        &Process {
            facts: Known {
                facts,
                looked_at: u64::MAX,
            },
            facts_at_exec: facts,
            executable: probe.executable.as_bytes(),
            script: None,
            inherited: None,
        },
    );
    assert_eq!(resolved.identity, found, "{probe:?}");
    found
}
