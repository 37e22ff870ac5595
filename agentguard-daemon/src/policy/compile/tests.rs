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
    compile(&policy(text), &host()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn host() -> HostFacts {
    HostFacts {
        users: [("root".to_owned(), 0)].into(),
        groups: [("root".to_owned(), 0)].into(),
        members: [(50, [1000, 1001].into())].into(),
        ..HostFacts::default()
    }
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
        ..host()
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

#[test]
fn the_example_has_every_key() {
    use crate::policy::parse;
    let text = include_str!("../../../policy.example.toml");
    for keys in [
        &parse::POLICY_FILE,
        &parse::ZONE,
        &parse::ROLE,
        &parse::RULE,
        &parse::IDENTITY,
        &parse::MATCH,
        &parse::REQUIRES,
        &parse::CONTAINER,
        &parse::CLASS,
        &parse::TAGS,
        &parse::LAUNCHER,
        &parse::DEFAULTS,
        &parse::LIMITS,
        &parse::RATE,
    ] {
        for key in keys.known {
            let written = [
                format!("{key} = "),
                format!("[{key}."),
                format!(".{key}]"),
                format!("[{key}]"),
            ];
            assert!(written.iter().any(|form| text.contains(form)), "{key}");
        }
    }
}

#[test]
fn the_mark_of_an_identity_beats_that_of_its_class() {
    let compiled = compiled(
        "[classes.ci]\nmark = 0x01000000\ndscp = \"le\"\n\
         [classes.human]\ndscp = 0\n\
         [identities.a]\nclass = \"ci\"\nmark = 0x02000000\nmatch = [{ cgroup = \"/a\" }]\n\
         [identities.b]\nclass = \"ci\"\ndscp = 46\nmatch = [{ cgroup = \"/b\" }]\n\
         [identities.c]\nclass = \"cron\"\nmatch = [{ cgroup = \"/c\" }]\n",
    );
    let tags: Vec<_> = compiled
        .identities
        .iter()
        .map(|identity| {
            (
                identity.tags.mark,
                identity.tags.mark_mask,
                identity.tags.dscp,
            )
        })
        .collect();
    let mask = 0xff00_0000;
    assert_eq!(
        tags,
        [
            (0, 0, None),
            (0, 0, None),
            (0, 0, Some(0)),
            (0, 0, None),
            (0, 0, None),
            (0x0200_0000, mask, Some(1)),
            (0x0100_0000, mask, Some(46)),
            (0, 0, None),
        ]
    );
}

#[test]
fn a_group_is_a_fact_of_its_members_too() {
    let compiled = compiled(
        "[identities.a]\nclass = \"ci\"\nmatch = [{ group = [50, 7], user = [1000, \"root\"] }]\n",
    );
    let users: Vec<_> = compiled
        .selection
        .users
        .iter()
        .map(|user| (user.kind, user.id, user.facts >> 2))
        .collect();
    assert_eq!(
        users,
        [(0, 0, 1), (0, 1000, 3), (0, 1001, 2), (1, 7, 2), (1, 50, 2)]
    );
}

#[test]
fn conditions_on_rules_make_variants() {
    let compiled = with_rules(
        "[[roles.r.egress]]\nzones = [\"private\"]\n\
         [[roles.r.egress]]\naddresses = [\"192.0.2.1\"]\nrequires = { login = true }\n\
         [[roles.r.egress]]\naddresses = [\"192.0.2.2\"]\nrequires = { user = 5 }\n\
         [[roles.r.egress]]\naddresses = [\"192.0.2.3\"]\nrequires = { login = true, user = 5 }\n\
         [[roles.r.egress]]\naddresses = [\"192.0.2.4\"]\nrequires = { login = false }\n",
    );
    let base = &compiled.identities[5];
    let named = |choice: &crate::policy::selection::Choice| {
        let variant = &compiled.identities[choice.identity];
        assert_eq!(variant.variant_of, Some(5));
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let allowed: Vec<String> = (1..5)
            .filter(|n| {
                let target: Target = format!("192.0.2.{n}:1/tcp").parse().unwrap();
                explain(&compiled, variant, &target.egress(), now).verdict == "allow"
            })
            .map(|n| n.to_string())
            .collect();
        format!("{}: {}", variant.name, allowed.join(" "))
    };
    let mut variants: Vec<String> = base.variants.iter().map(named).collect();
    assert_eq!(variants[0], "a?login = true&user = 5: 1 2 3");
    variants.sort();
    assert_eq!(
        variants,
        [
            "a?login = false&user = 5: 2 4",
            "a?login = false: 4",
            "a?login = true&user = 5: 1 2 3",
            "a?login = true: 1",
            "a?user = 5: 2",
        ]
    );
    assert_eq!(ask(&compiled, "192.0.2.1:1/tcp"), "deny no-rule");
    assert_eq!(ask(&compiled, "10.0.0.1:1/tcp"), "allow r.egress[0]");
}

#[test]
fn launchers_are_for_users_and_groups() {
    let compiled = compiled(
        "[[launchers]]\nusers = \"root\"\ngroups = [7]\nidentities = [\"b-*\", \"a\"]\n\
         [identities.a]\nclass = \"ci\"\n",
    );
    let launcher = &compiled.launchers[0];
    for (user, groups, identity, expected) in [
        (0, &[][..], "a", true),
        (1, &[], "a", false),
        (1, &[7, 9], "b-c", true),
        (0, &[7], "c", false),
    ] {
        assert_eq!(launcher.permits(user, groups, identity), expected);
    }
}

#[test]
fn an_executable_is_chosen_by_its_conditions_in_order() {
    let compiled = compiled(
        "[identities.a]\nclass = \"ci\"\nmatch = [{ executable = \"/bin/*\" }]\n\
         [identities.b]\nclass = \"ci\"\nmatch = [{ executable = \"/bin/b\", user = 5, inherit = false }]\n\
         [identities.c]\nclass = \"ci\"\n\
         match = [{ executable = \"/bin/b\", container = { name = \"x\" } }]\n",
    );
    let set = compiled.selection.set_of(b"/bin/b").unwrap();
    let choices: Vec<_> = set
        .choices
        .iter()
        .map(|choice| {
            let conditions: Vec<&str> = compiled.selection.describe(choice.required).collect();
            let name = &compiled.identities[choice.identity].name;
            format!("{name} {} {}", choice.inherit, conditions.join(", "))
        })
        .collect();
    assert_eq!(
        choices,
        [
            "b false on the host's own files, user = 5",
            "c true container = { name = \"x\" }",
            "a true on the host's own files",
        ]
    );
    assert_eq!(compiled.selection.set_of(b"/sbin/b"), None);
}

#[test]
fn a_rule_with_a_condition_does_not_shadow_one_without() {
    let warnings = |first: &str, second: &str| {
        let text = format!(
            "[identities.a]\nclass = \"ci\"\nroles = [\"r\"]\nmatch = [{{ cgroup = \"/a\" }}]\n\
             [[roles.r.egress]]\nzones = [\"any\"]\n{first}\n\
             [[roles.r.egress]]\nzones = [\"private\"]\n{second}\n"
        );
        review(
            &policy(&text),
            &host(),
            "2026-01-01T00:00:00Z".parse().unwrap(),
        )
        .warnings()
    };
    let login = "requires = { login = true }";
    assert_eq!(warnings("", ""), 1);
    assert_eq!(warnings("", login), 1);
    assert_eq!(warnings(login, login), 1);
    assert_eq!(warnings(login, ""), 0);
    assert_eq!(warnings("requires = { login = false }", login), 0);
}

#[test]
fn a_launcher_for_no_identity_is_warned_of() {
    let warnings = |glob: &str| {
        let text = format!(
            "[identities.bot-a]\nclass = \"ci\"\nmatch = [{{ cgroup = \"/a\" }}]\n\
             [[launchers]]\nusers = [0]\nidentities = [\"{glob}\"]\n"
        );
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        review(&policy(&text), &host(), now).warnings()
    };
    // An identity without roles is one already.
    assert_eq!(warnings("bot-*"), 1);
    assert_eq!(warnings("bat-*"), 2);
}
