use super::*;
use crate::policy::{HostFacts, Sources, compile, load, source::Source};

fn compiled(text: &str) -> Compiled {
    let sources = Sources::from_files(vec![Source::new("test.toml", text)]);
    let policy = load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
    let host = HostFacts {
        users: [("alice".to_owned(), 1000), ("bob".to_owned(), 1001)].into(),
        groups: [("staff".to_owned(), 50)].into(),
        ..HostFacts::default()
    };
    compile(&policy, &host).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A policy of identities, each with its `match` tables and other keys.
fn policy(identities: &[(&str, &str)]) -> Compiled {
    let text: String = identities
        .iter()
        .map(|(name, keys)| format!("[identities.{name}]\nclass = \"ci\"\n{keys}\n"))
        .collect();
    compiled(&text)
}

fn name(compiled: &Compiled, index: usize) -> &str {
    &compiled.identities[index].name
}

/// `identity`, and before it the identities that may be chosen instead.
fn found(compiled: &Compiled, contexts: &[Context]) -> String {
    let chain: Vec<&Context> = contexts.iter().collect();
    let selected = select(compiled, &chain);
    let mut names: Vec<&str> = selected
        .choices
        .iter()
        .map(|choice| name(compiled, choice.identity))
        .collect();
    names.push(name(compiled, selected.index));
    names.join(" ")
}

#[track_caller]
fn check(identities: &[(&str, &str)], cases: &[(&str, &str)]) {
    let compiled = policy(identities);
    for (path, expected) in cases {
        let chain = Context::chain_of_path(path);
        assert_eq!(found(&compiled, &chain), *expected, "{path}");
    }
}

#[test]
fn a_unit_is_the_last_component_below_slices_only() {
    check(
        &[("sync", "match = [{ systemd-unit = \"sync@*.service\" }]")],
        &[
            ("/system.slice/sync@1.service", "sync"),
            ("/sync@1.service", "sync"),
            ("/x.slice/x-a.slice/sync@1.service", "sync"),
            ("/system.slice/sync@1.service/child", "sync"),
            ("/system.slice/sync@1.scope", "service"),
            (
                "/user.slice/user-1.slice/user@1.service/app.slice/sync@1.service",
                "human",
            ),
            ("/system.slice/docker-1.scope/sync@1.service", "service"),
            ("/system.slice/sync@1", "service"),
        ],
    );
}

#[test]
fn an_escaped_unit_name_is_the_unit() {
    check(
        &[("odd", "match = [{ systemd-unit = \"cgroup.service\" }]")],
        &[("/system.slice/_cgroup.service", "odd")],
    );
}

#[test]
fn a_cgroup_glob_stays_within_a_component() {
    check(
        &[
            ("run", "match = [{ cgroup = \"/jobs/*\" }]"),
            ("tree", "match = [{ cgroup = \"/trees/**\" }]"),
        ],
        &[
            ("/jobs", "unknown"),
            ("/jobs/a", "run"),
            ("/jobs/a/b", "run"),
            ("/trees/a/b", "tree"),
            ("/", "unknown"),
        ],
    );
}

#[test]
fn keys_of_a_table_and_tables_of_an_identity_or() {
    check(
        &[(
            "both",
            "match = [{ systemd-unit = \"a.service\", cgroup = \"/x.slice/*\" }, \
             { cgroup = \"/other/place\" }]",
        )],
        &[
            ("/x.slice/a.service", "both"),
            ("/a.service", "unknown"),
            ("/x.slice/b.service", "unknown"),
            ("/other/place", "both"),
        ],
    );
}

#[test]
fn the_narrower_glob_wins() {
    check(
        &[
            ("a-wide", "match = [{ systemd-unit = \"*.service\" }]"),
            (
                "b-narrow",
                "match = [{ systemd-unit = \"billing-*.service\" }]",
            ),
            (
                "c-exact",
                "match = [{ systemd-unit = \"billing-sync.service\" }]",
            ),
        ],
        &[
            ("/x.service", "a-wide"),
            ("/billing-x.service", "b-narrow"),
            ("/billing-sync.service", "c-exact"),
        ],
    );
}

#[test]
fn rank_comes_before_nearness_and_nearness_before_keys() {
    check(
        &[
            ("unit", "match = [{ systemd-unit = \"a.service\" }]"),
            ("deep", "match = [{ cgroup = \"/x.slice/a.service/deep\" }]"),
            (
                "slice",
                "match = [{ slice = \"x.slice\", login = true }, { slice = \"x.slice\" }]",
            ),
            ("path", "match = [{ cgroup = \"/jobs/**\" }]"),
            ("near", "match = [{ cgroup = \"/jobs/a\" }]"),
        ],
        &[
            ("/x.slice", "slice"),
            ("/x.slice/b.service", "slice"),
            ("/x.slice/a.service", "unit"),
            ("/x.slice/a.service/deep", "unit"),
            ("/jobs/a", "near"),
            ("/jobs/a/b", "path"),
        ],
    );
}

#[test]
fn a_slice_alone_means_the_slice_and_beside_a_unit_those_around_it() {
    check(
        &[
            ("all", "match = [{ slice = \"x*.slice\" }]"),
            (
                "one",
                "match = [{ slice = \"x.slice\", systemd-unit = \"a.service\" }]",
            ),
        ],
        &[
            ("/x.slice/x-y.slice/a.service", "one"),
            ("/y.slice/a.service", "unknown"),
            ("/x.slice/x-y.slice/b.service", "all"),
        ],
    );
}

#[test]
fn the_agents_slice_is_for_unknown_agents_unless_claimed() {
    check(
        &[],
        &[
            ("/agents.slice", "unknown-agent"),
            ("/agents.slice/x.service", "unknown-agent"),
            ("/other/agents.slice", "unknown"),
        ],
    );
    check(
        &[("all", "match = [{ systemd-unit = \"agents.slice\" }]")],
        &[("/agents.slice", "all"), ("/agents.slice/a.scope", "all")],
    );
    check(
        &[
            ("host", "match = [{ cgroup = \"/\" }]"),
            ("in", "match = [{ cgroup = \"/agents.slice/a\" }]"),
        ],
        &[
            ("/x", "host"),
            ("/agents.slice/x.service", "unknown-agent"),
            ("/agents.slice/a/b", "in"),
        ],
    );
}

#[test]
fn a_slice_with_dashes_stands_in_its_parents() {
    for (slice, path) in [
        ("agents.slice", "/agents.slice"),
        (
            "ai-agents-night.slice",
            "/ai.slice/ai-agents.slice/ai-agents-night.slice",
        ),
    ] {
        assert_eq!(slice_path(slice), path);
    }
}

#[test]
fn users_and_logins_are_choices_before_who_it_is_otherwise() {
    let identities = [
        ("alice", "match = [{ user = \"alice\" }]"),
        ("staff", "match = [{ group = \"staff\" }]"),
        ("people", "match = [{ login = true }]"),
        ("unit", "match = [{ systemd-unit = \"a.service\" }]"),
        (
            "unit-of-bob",
            "match = [{ systemd-unit = \"a.service\", user = \"bob\" }]",
        ),
    ];
    check(
        &identities,
        &[
            ("/", "alice staff people unknown"),
            ("/system.slice/b.service", "alice staff people service"),
            ("/system.slice/a.service/x", "unit-of-bob unit"),
        ],
    );
}

#[test]
fn what_an_identity_requires_of_cgroups_is_looked_at_here() {
    let identities = [
        (
            "build",
            "match = [{ cgroup = \"/ci.slice/**\" }]\n\
             requires = { slice = \"ci.slice\", user = \"bob\" }",
        ),
        (
            "never",
            "match = [{ cgroup = \"/**\" }]\nrequires = { unit = \"gone.service\" }",
        ),
        ("rest", "match = [{ cgroup = \"/ci.slice/*\" }]"),
    ];
    check(
        &identities,
        &[("/ci.slice/a", "build rest"), ("/other/a", "unknown")],
    );
}

#[test]
fn claims_need_leave_and_come_after_selectors() {
    let compiled = policy(&[
        ("a", "claimable-by-unit = true"),
        ("b", "match = [{ systemd-unit = \"b.service\" }]"),
        ("c", "match = [{ systemd-unit = \"c.service\" }]"),
        (
            "d",
            "claimable-by-unit = true\nrequires = { slice = \"x.slice\" }",
        ),
    ]);
    for (path, claim, expected) in [
        ("/system.slice/x.service", "a", "a"),
        ("/system.slice/b.service", "a", "b"),
        ("/system.slice/x.service", "c", "service"),
        ("/system.slice/x.service", "nobody", "service"),
        ("/system.slice/x.service", "d", "service"),
        ("/x.slice/x.service", "d", "d"),
    ] {
        let mut chain = Context::chain_of_path(path);
        chain.last_mut().unwrap().claim = Some(claim.to_owned());
        assert_eq!(found(&compiled, &chain), expected, "{path} {claim}");
    }
}

#[test]
fn containers_are_known_by_all_their_keys() {
    use crate::identity::context::{Container, Runtime};
    let compiled = policy(&[(
        "web",
        "match = [{ container = { runtime = \"podman\", image = \"*/nginx:*\", \
         labels = { team = \"b*\" } } }]",
    )]);
    let container = Container {
        runtime: Runtime::Podman,
        id: "4711".to_owned(),
        name: None,
        image: Some("example.com/nginx:1".to_owned()),
        labels: [("team".to_owned(), "blue/green".to_owned())].into(),
        rootless_of: None,
    };
    let mut chain = Context::chain_of_path("/machine.slice/libpod-4711.scope");
    for (container, expected) in [
        (container.clone(), "web"),
        (
            Container {
                runtime: Runtime::Docker,
                ..container.clone()
            },
            "unknown",
        ),
        (
            Container {
                image: None,
                ..container.clone()
            },
            "unknown",
        ),
        (
            Container {
                rootless_of: Some(1000),
                ..container.clone()
            },
            "unknown",
        ),
        (
            Container {
                labels: [("team".to_owned(), "red".to_owned())].into(),
                ..container
            },
            "unknown",
        ),
    ] {
        chain.last_mut().unwrap().container = Some(container);
        assert_eq!(found(&compiled, &chain), expected);
    }
}

#[test]
fn people_jobs_and_services_are_known_without_policy() {
    use crate::identity::context::Session;
    let compiled = policy(&[]);
    let session = |class: &str| {
        Some(Session {
            id: "1".to_owned(),
            class: Some(class.to_owned()),
            user: None,
        })
    };
    let scope = "/user.slice/user-0.slice/session-1.scope";
    for (path, session, timer, expected) in [
        ("/init.scope", None, false, "unknown"),
        (scope, None, false, "human"),
        (scope, session("user"), false, "human"),
        (scope, session("background"), false, "cron"),
        (
            "/elsewhere/session-1.scope",
            session("user-early"),
            false,
            "human",
        ),
        ("/system.slice/cron.service", None, false, "cron"),
        ("/system.slice/x.service", None, true, "cron"),
        ("/system.slice/x.service", None, false, "service"),
    ] {
        let mut chain = Context::chain_of_path(path);
        let last = chain.last_mut().unwrap();
        (last.session, last.timer) = (session, timer);
        chain.push(Context::of_path(&format!("{path}/below")));
        assert_eq!(found(&compiled, &chain), expected, "{path}");
    }
}

#[test]
fn a_policy_identity_wins_over_a_built_in_one() {
    check(
        &[
            ("p", "match = [{ login = true }]"),
            ("q", "match = [{ cgroup = \"/system.slice\" }]"),
        ],
        &[
            ("/user.slice/user-0.slice", "p human"),
            ("/system.slice/cron.service", "q"),
        ],
    );
}
