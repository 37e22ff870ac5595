use std::path::PathBuf;

use globset::GlobBuilder;

use super::*;
use crate::policy::{
    compiled::{Class, Location, Mode, PortClasses, Tags},
    selection::Selection,
};

/// `(unit glob, cgroup glob)`, either may be empty.
type Globs<'a> = (&'a str, &'a str);

fn glob(pattern: &str) -> Option<globset::GlobMatcher> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    (!pattern.is_empty()).then(|| glob.unwrap().compile_matcher())
}

fn identity(name: &str, selectors: &[Globs<'_>]) -> CompiledIdentity {
    let location = Location {
        file: PathBuf::from("test.toml"),
        line: 1,
        column: 1,
    };
    CompiledIdentity {
        name: name.to_owned(),
        class: Class::Agent,
        owner: None,
        purpose: None,
        environment: None,
        roles: Vec::new(),
        mode: Mode::Enforce,
        expires: None,
        selectors: selectors
            .iter()
            .map(|(unit, cgroup)| Selector {
                systemd_unit: glob(unit),
                cgroup: glob(cgroup),
                location: location.clone(),
            })
            .collect(),
        flags: 0,
        profile: 0,
        variants: Vec::new(),
        tags: Tags::default(),
        location: None,
    }
}

fn compiled(identities: &[(&str, &[Globs<'_>])]) -> Compiled {
    let built_in = [identity("unknown", &[]), identity("unknown-agent", &[])];
    Compiled {
        addresses: Vec::new(),
        ports: PortClasses {
            tcp: Vec::new(),
            udp: Vec::new(),
        },
        rules: Vec::new(),
        identities: built_in
            .into_iter()
            .chain(identities.iter().map(|(name, globs)| identity(name, globs)))
            .collect(),
        rule_sources: Vec::new(),
        agents_slice: "agents.slice".to_owned(),
        selection: Selection::default(),
    }
}

fn check(identities: &[(&str, &[Globs<'_>])], cases: &[(&str, Option<&str>)]) {
    let compiled = compiled(identities);
    for (path, expected) in cases {
        let found = select(&compiled, path.as_bytes());
        let name = found.map(|selected| compiled.identities[selected.index].name.as_str());
        assert_eq!(name, *expected, "{path}");
    }
}

#[test]
fn a_unit_is_the_last_component_below_slices_only() {
    check(
        &[("sync", &[("sync@*.service", "")])],
        &[
            ("/system.slice/sync@1.service", Some("sync")),
            ("/sync@1.service", Some("sync")),
            ("/agents.slice/agents-a.slice/sync@1.service", Some("sync")),
            ("/system.slice/sync@1.service/child", None),
            ("/system.slice/sync@1.scope", None),
            (
                "/user.slice/user-1.slice/user@1.service/app.slice/sync@1.service",
                None,
            ),
            ("/system.slice/docker-1.scope/sync@1.service", None),
            ("/system.slice/sync@1", None),
        ],
    );
}

#[test]
fn an_escaped_unit_name_is_the_unit() {
    check(
        &[("odd", &[("cgroup.service", "")])],
        &[("/system.slice/_cgroup.service", Some("odd"))],
    );
}

#[test]
fn a_cgroup_glob_stays_within_a_component() {
    check(
        &[("run", &[("", "/jobs/*")]), ("tree", &[("", "/trees/**")])],
        &[
            ("/jobs/a", Some("run")),
            ("/jobs/a/b", None),
            ("/trees/a/b", Some("tree")),
            ("/", None),
        ],
    );
}

#[test]
fn keys_of_a_table_and_tables_of_an_identity_or() {
    check(
        &[(
            "both",
            &[("a.service", "/system.slice/*"), ("", "/other/place")],
        )],
        &[
            ("/system.slice/a.service", Some("both")),
            ("/a.service", None),
            ("/system.slice/b.service", None),
            ("/other/place", Some("both")),
        ],
    );
}

#[test]
fn the_most_literal_glob_wins_and_names_break_ties() {
    check(
        &[
            ("a-wide", &[("*.service", "")]),
            ("b-narrow", &[("billing-*.service", "")]),
            ("c-same", &[("billing-*.service", "")]),
            ("d-exact", &[("billing-sync.service", "")]),
            ("e-class", &[("billing-[a-z]*.service", "")]),
        ],
        &[
            ("/x.service", Some("a-wide")),
            ("/billing-x.service", Some("b-narrow")),
            ("/billing-sync.service", Some("d-exact")),
        ],
    );
}

#[test]
fn the_agents_slice_is_for_unknown_agents_unless_claimed() {
    check(
        &[],
        &[
            ("/agents.slice", Some("unknown-agent")),
            ("/agents.slice/x.service", None),
            ("/other/agents.slice", None),
        ],
    );
    check(
        &[("all", &[("agents.slice", "")])],
        &[("/agents.slice", Some("all"))],
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
fn a_selector_that_says_nothing_matches_nothing() {
    check(&[("empty", &[("", "")])], &[("/anything", None)]);
}
