use agentguard_common::fact::ON_HOST;

use super::*;
use crate::identity::{context::Context, select::select};
use crate::policy::{HostFacts, Sources, compile, load, source::Source};

const POLICY: &str = r#"
[[roles.r.egress]]
zones = ["private"]
[[roles.r.egress]]
zones = ["any"]
requires = { login = true }

[identities.agent]
class = "agent"
roles = ["r"]
match = [{ executable = "/opt/agent/*", user = 1000 }]

[identities.script]
class = "ci"
match = [{ executable = "/srv/*.py" }]
requires = { slice = "ci.slice", parent-executable = "/usr/bin/make" }

[identities.unit]
class = "service"
match = [{ systemd-unit = "a.service", login = false }]
"#;

fn compiled() -> Compiled {
    let sources = Sources::from_files(vec![Source::new("test.toml", POLICY)]);
    let policy = load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
    compile(&policy, &HostFacts::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// `identity/rules (why not): who (why not), ...`
fn told(path: &str, facts: &[&str], executable: &str, script: Option<&str>) -> String {
    let compiled = compiled();
    let named = |text: &&str| {
        let index = compiled
            .selection
            .facts
            .iter()
            .position(|fact| fact.text == *text);
        match *text {
            "login" => LOGIN,
            "host" => ON_HOST,
            _ => 1 << (index.unwrap() + 2),
        }
    };
    let chain = Context::chain_of_path(path);
    let chain: Vec<&Context> = chain.iter().collect();
    let selected = select(&compiled, &chain);
    let facts = facts.iter().map(named).fold(0, |all, fact| all | fact);
    let known = Known {
        facts: facts | selected.facts,
        looked_at: u64::MAX,
    };
    let process = Process {
        facts: known,
        facts_at_exec: known.facts,
        executable: executable.as_bytes(),
        script: script.map(str::as_bytes),
        inherited: None,
    };
    let found = resolve(&compiled, &selected, &process);
    let name = |index: usize| compiled.identities[index].name.clone();
    let unmet = unmet_rules(&compiled, found.identity, known);
    let rules: Vec<String> = unmet
        .map(|(rule, failed)| format!("{} ({})", rule.number, failed.join(", ")))
        .collect();
    let others: Vec<String> = found
        .passed_over
        .iter()
        .map(|other| format!("{} ({})", name(other.identity), other.failed.join(", ")))
        .collect();
    let who = name(found.identity);
    format!("{who}/{}: {}", rules.join("; "), others.join("; "))
}

#[test]
fn who_a_process_is_and_why_nobody_else() {
    let agent = "/opt/agent/bin";
    for (told, expected) in [
        (
            told("/a.service", &["host", "user = 1000"], agent, None),
            "agent/2 (login = true): ",
        ),
        (
            told("/a.service", &["host", "login", "user = 1000"], agent, None),
            "agent/: ",
        ),
        (
            told("/a.service", &["user = 1000"], agent, None),
            "unit/: agent (on the host's own files)",
        ),
        (
            told("/a.service", &["host", "login"], agent, None),
            "unknown/: agent (user = 1000); unit (login = false)",
        ),
        (
            told(
                "/ci.slice/x.scope",
                &["host"],
                "/usr/bin/python3",
                Some("/srv/x.py"),
            ),
            "unknown/: script (parent-executable = \"/usr/bin/make\")",
        ),
        (
            told(
                "/ci.slice/x.scope",
                &["host", "parent-executable = \"/usr/bin/make\""],
                "/usr/bin/python3",
                Some("/srv/x.py"),
            ),
            "script/: ",
        ),
        (
            told(
                "/x.scope",
                &["host", "parent-executable = \"/usr/bin/make\""],
                "/usr/bin/python3",
                Some("/srv/x.py"),
            ),
            "unknown/: script (slice = \"ci.slice\")",
        ),
    ] {
        assert_eq!(told, expected);
    }
}

#[test]
fn nothing_is_said_of_what_was_not_looked_at() {
    let compiled = compiled();
    let chain = Context::chain_of_path("/a.service");
    let chain: Vec<&Context> = chain.iter().collect();
    let selected = select(&compiled, &chain);
    for (known, expected) in [
        (0, 0),
        (FACTS_OF_PROCESS, 0),
        (FACTS_OF_PROCESS | FACTS_OF_USER, 1),
    ] {
        let facts = Known::of_event(&compiled.selection, selected.facts | LOGIN, known);
        let process = Process {
            facts,
            ..Process::default()
        };
        let found = resolve(&compiled, &selected, &process);
        assert_eq!(found.passed_over.len(), expected, "{known}");
    }
}
