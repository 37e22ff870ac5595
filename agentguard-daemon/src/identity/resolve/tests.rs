use agentguard_common::fact::ON_HOST;

use super::*;
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

/// `identity/variant: who (why not), ...`
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
    let process = Process {
        facts: facts.iter().map(named).fold(0, |all, fact| all | fact),
        executable: executable.as_bytes(),
        script: script.map(str::as_bytes),
        inherited: None,
    };
    let found = resolve(&compiled, &chain, &process);
    let name = |index: usize| compiled.identities[index].name.clone();
    let variant = found.variant.map(name).unwrap_or_default();
    let others: Vec<String> = found
        .passed_over
        .iter()
        .map(|other| format!("{} ({})", name(other.identity), other.failed.join(", ")))
        .collect();
    format!("{}/{variant}: {}", name(found.identity), others.join("; "))
}

#[test]
fn who_a_process_is_and_why_nobody_else() {
    let agent = "/opt/agent/bin";
    for (told, expected) in [
        (
            told("/a.service", &["host", "user = 1000"], agent, None),
            "agent/: ",
        ),
        (
            told("/a.service", &["host", "login", "user = 1000"], agent, None),
            "agent/agent?login = true: ",
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
