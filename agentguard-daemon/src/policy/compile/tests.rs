use agentguard_common::{
    connection::{Address, Connection, Direction, Protocol},
    identity::{FLAG_ENFORCE, FLAG_PRESENT, FLAG_QUIET, FLAG_RAW_SOCKETS, FLAG_RESTRICTED},
    policy::{RuleKey, Tables as _},
};

use super::*;
use crate::policy::{
    Sources, Target, compiled::CompiledTables, explain, load, review, source::Source,
};

fn policy(text: &str) -> Policy {
    load(&Sources::from_files(vec![Source::new("test.toml", text)]))
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn compiled(text: &str) -> Compiled {
    compile(&policy(text), &HostFacts::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Asks for identity `a`, and gives `verdict rule`.
fn ask(compiled: &Compiled, target: &str) -> String {
    let target: Target = target.parse().unwrap();
    ask_connection(compiled, &target.egress())
}

fn ask_connection(compiled: &Compiled, connection: &Connection) -> String {
    let identity = compiled.identities.iter().find(|i| i.name == "a").unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let explanation = explain(compiled, identity, connection, now);
    match explanation.rule {
        Some(rule) => format!("{} {rule}", explanation.verdict),
        None => format!("{} {}", explanation.verdict, explanation.reason),
    }
}

fn with_rules(rules: &str) -> Compiled {
    compiled(&format!(
        "[identities.a]\nclass = \"service\"\nroles = [\"r\"]\nmatch = [{{ cgroup = \"/a\" }}]\n\
         {rules}"
    ))
}

#[test]
fn the_example_is_valid_without_warnings() {
    let policy = policy(include_str!("../../../policy.example.toml"));
    let host = HostFacts {
        resolvers: vec!["192.0.2.53".parse().unwrap()],
        ..HostFacts::default()
    };
    let warnings = review(&policy, &host, "2026-01-01T00:00:00Z".parse().unwrap());
    assert!(warnings.is_empty(), "{warnings}");
    compile(&policy, &host).unwrap_or_else(|errors| panic!("{errors}"));
}

#[test]
fn rules_of_ipv6_say_nothing_of_ipv4() {
    let compiled = with_rules("[[roles.r.egress]]\naddresses = [\"::/0\"]");
    assert_eq!(ask(&compiled, "[2001:db8::1]:1/tcp"), "allow r.egress[0]");
    assert_eq!(ask(&compiled, "192.0.2.1:1/tcp"), "deny no-rule");
    assert_eq!(ask(&compiled, "[::ffff:192.0.2.1]:1/tcp"), "deny no-rule");
}

#[test]
fn deny_wins_and_among_equals_the_first() {
    let compiled = with_rules(
        "[[roles.r.egress]]\nzones = [\"any\"]\n\
         [[roles.r.egress]]\nzones = [\"private\"]\ndeny = true\n\
         [[roles.r.egress]]\naddresses = [\"10.0.0.0/8\"]\nports = [\"443/tcp\"]\n",
    );
    assert_eq!(ask(&compiled, "192.0.2.1:443/tcp"), "allow r.egress[0]");
    assert_eq!(ask(&compiled, "10.0.0.1:443/tcp"), "deny r.egress[1]");
}

#[test]
fn a_port_may_be_bound_where_somebody_may_reach_it() {
    let bind = |port| Connection {
        direction: Direction::Bind,
        protocol: Protocol::Tcp,
        remote: Address::default(),
        remote_port: 0,
        local_port: port,
    };
    let compiled = with_rules(
        "[[roles.r.ingress]]\nzones = [\"private\"]\nports = [\"80-90/tcp\"]\n\
         [[roles.r.ingress]]\naddresses = [\"10.0.0.1\"]\ndeny = true\n\
         [[roles.r.ingress]]\nzones = [\"any\"]\nports = [\"85/tcp\"]\ndeny = true\n",
    );
    for (port, expected) in [
        (79, "deny no-rule"),
        (80, "allow r.ingress[0]"),
        (85, "deny r.ingress[2]"),
        (90, "allow r.ingress[0]"),
        (91, "deny no-rule"),
    ] {
        assert_eq!(ask_connection(&compiled, &bind(port)), expected, "{port}");
    }
}

#[test]
fn ports_that_no_rule_names_are_covered_by_a_rule_for_all() {
    let compiled = with_rules(
        "[[roles.r.egress]]\nzones = [\"private\"]\nports = [\"443/tcp\"]\n\
         [[roles.r.egress]]\naddresses = [\"10.0.0.1\"]\n",
    );
    let tables = CompiledTables::new(&compiled);
    assert_eq!(tables.port_class(Protocol::Tcp, 1), 0);
    assert_eq!(ask(&compiled, "10.0.0.1:1/tcp"), "allow r.egress[1]");
    assert_eq!(ask(&compiled, "10.0.0.1/icmp"), "allow r.egress[1]");
    assert_eq!(ask(&compiled, "10.0.0.2:1/tcp"), "deny no-rule");
    assert_eq!(ask(&compiled, "10.0.0.2:443/tcp"), "allow r.egress[0]");
}

#[test]
fn identities_with_the_same_roles_share_a_profile() {
    let compiled = compiled(
        "[roles.r]\n[roles.s]\n\
         [identities.a]\nclass = \"ci\"\nroles = [\"r\", \"s\"]\nmatch = [{ cgroup = \"/a\" }]\n\
         [identities.b]\nclass = \"ci\"\nroles = [\"s\", \"r\"]\nmatch = [{ cgroup = \"/b\" }]\n\
         [identities.c]\nclass = \"ci\"\nmatch = [{ cgroup = \"/c\" }]\n\
         [identities.d]\nclass = \"ci\"\nroles = [\"r\"]\nmatch = [{ cgroup = \"/d\" }]\n",
    );
    let profiles: Vec<u32> = compiled.identities.iter().map(|i| i.profile).collect();
    assert_eq!(profiles, [0, 0, 0, 0, 0, 1, 1, 0, 2]);
}

#[test]
fn flags_follow_class_mode_roles_and_defaults() {
    const FREE: u32 = FLAG_PRESENT | FLAG_ENFORCE;
    let compiled = compiled(
        "[roles.raw]\nraw-sockets = true\n\
         [identities.a]\nclass = \"human\"\nmatch = [{ cgroup = \"/a\" }]\n\
         [identities.b]\nclass = \"human\"\nroles = [\"raw\"]\nmatch = [{ cgroup = \"/b\" }]\n\
         [identities.c]\nclass = \"cron\"\nmode = \"audit\"\nmatch = [{ cgroup = \"/c\" }]\n\
         [defaults]\nunknown = \"deny\"\nunknown-agent = \"allow\"\n",
    );
    let flags: Vec<u32> = compiled.identities.iter().map(|i| i.flags).collect();
    assert_eq!(
        flags,
        [
            FREE | FLAG_RESTRICTED,
            FREE,
            FREE | FLAG_RESTRICTED,
            FREE | FLAG_RESTRICTED,
            FREE | FLAG_RESTRICTED,
            FREE,
            FREE | FLAG_RESTRICTED | FLAG_RAW_SOCKETS,
            FLAG_PRESENT | FLAG_RESTRICTED,
        ]
    );
}

#[test]
fn no_more_port_classes_than_ports() {
    let rules: String = (1..=300)
        .map(|n| {
            format!(
                "[[roles.r.egress]]\nzones = [\"any\"]\nports = [\"{n}-{}/udp\", \"*/tcp\"]\n",
                n * 200
            )
        })
        .collect();
    let compiled = with_rules(&rules);
    let mut udp = compiled.ports.udp.clone();
    udp.sort_unstable();
    udp.dedup();
    assert!(udp.len() <= 601 && usize::from(*udp.last().unwrap()) == udp.len() - 1);
    assert!(compiled.ports.tcp.iter().all(|&class| class == 0));
}

#[test]
fn too_many_cells_are_an_error_that_says_so() {
    let rules: String = (0..1001)
        .map(|n| {
            format!(
                "[[roles.r.egress]]\naddresses = [\"10.{}.{}.0/24\"]\nports = [\"{}/tcp\"]\n",
                n / 256,
                n % 256,
                n + 1
            )
        })
        .collect();
    let text = format!(
        "[identities.a]\nclass = \"ci\"\nroles = [\"r\"]\nmatch = [{{ cgroup = \"/a\" }}]\n\
         {rules}[[roles.r.egress]]\nzones = [\"any\"]\n"
    );
    let errors = compile(&policy(&text), &HostFacts::default()).unwrap_err();
    assert_eq!(errors.errors(), 1);
    assert!(errors.to_string().contains("more than 1000000"), "{errors}");
}

#[test]
fn cells_are_sorted_and_the_same_each_time() {
    let text = include_str!("../../../policy.example.toml");
    let (first, second) = (compiled(text), compiled(text));
    assert_eq!(first.rules, second.rules);
    assert_eq!(first.addresses, second.addresses);
    assert!(first.rules.is_sorted_by_key(|&(key, _): &(RuleKey, _)| key));
}

#[test]
fn only_the_unknown_rest_of_the_host_is_quiet() {
    let quiet = |text: &str| -> Vec<bool> {
        let flags = compiled(text).identities;
        flags.iter().map(|i| i.flags & FLAG_QUIET != 0).collect()
    };
    assert_eq!(quiet(""), [true, false, true, true, true]);
    let open = "[defaults]\nunknown-agent = \"allow\"\n\
                [identities.a]\nclass = \"unknown\"\nmatch = [{ cgroup = \"/a\" }]\n";
    assert_eq!(quiet(open), [true, false, true, true, true, false]);
    assert_eq!(quiet("[defaults]\nunknown = \"deny\"\n"), [false; 5]);
}
