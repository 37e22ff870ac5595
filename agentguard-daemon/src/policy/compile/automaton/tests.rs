use agentguard_common::executable::{NO_SET, is_plain};
use globset::GlobBuilder;
use proptest::prelude::*;

use super::*;
use crate::policy::language::MAX_BYTES;

fn glob(text: &str) -> Glob {
    GlobBuilder::new(text)
        .literal_separator(true)
        .build()
        .unwrap()
}

/// The globs that match `path`, as the kernel finds them.
fn run(automaton: &Automaton, sets: &[Vec<usize>], path: &[u8]) -> Vec<usize> {
    let found = automaton.find(path);
    match found {
        NO_SET => Vec::new(),
        number => sets[number as usize - 1].clone(),
    }
}

fn check(globs: &[Glob], paths: &[Vec<u8>]) {
    let mut all = Globs::default();
    let numbers = all.add(globs);
    let (automaton, sets) = all.compile(MAX_BYTES).unwrap();
    for path in paths {
        use std::os::unix::ffi::OsStrExt as _;
        let name = std::ffi::OsStr::from_bytes(path);
        let mut expected: Vec<usize> = globs
            .iter()
            .zip(&numbers)
            // Where a path with `..` and the like leads is not what it says: it matches nothing.
            .filter(|(glob, _)| is_plain(path) && glob.compile_matcher().is_match(name))
            .map(|(_, &number)| number)
            .collect();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(run(&automaton, &sets, path), expected, "{name:?} {globs:?}");
    }
}

#[test]
fn paths_lead_to_the_globs_that_match_them() {
    let globs = [
        "/usr/bin/*",
        "/usr/bin/python3*",
        "/opt/**/agent",
        "/home/*/bin/{a,b}[0-9]",
        "**/agent",
    ]
    .map(glob);
    let paths = [
        "",
        "/",
        "/usr/bin/python3",
        "/usr/bin/python3.11",
        "/usr/bin/x/y",
        "/opt/agent",
        "/opt/a/b/agent",
        "/home/x/bin/a7",
        "/home/x/y/bin/a7",
        "agent",
        "/opt/a\nb/agent",
    ];
    let mut paths: Vec<Vec<u8>> = paths.map(|path| path.as_bytes().to_vec()).into();
    paths.push(b"/usr/bin/\xff\xfe".to_vec());
    check(&globs, &paths);
}

#[test]
fn no_globs_make_an_automaton_that_finds_nothing() {
    let (automaton, sets) = Globs::default().compile(MAX_BYTES).unwrap();
    assert_eq!(run(&automaton, &sets, b"/bin/sh"), Vec::<usize>::new());
}

#[test]
fn what_grows_too_large_is_an_error_with_a_number() {
    let globs: Vec<Glob> = (0..40)
        .map(|n| glob(&format!("**/a{n}/**/b{n}/**/c{n}/**")))
        .collect();
    let mut all = Globs::default();
    all.add(&globs);
    let error = all.compile(1 << 20).unwrap_err();
    assert!(error.message.contains("40 globs"), "{}", error.message);
    assert!(error.help.is_some());
}

proptest! {
    #[test]
    fn the_automaton_matches_as_globset_does(
        texts in prop::collection::vec("/[ab*?/]{0,6}|\\*\\*/[ab*]{1,3}|/[ab]\\{a,b\\}[!a]?", 1..6),
        paths in prop::collection::vec("[/ab\u{e9}\n]{0,8}", 1..20),
    ) {
        let globs: Vec<Glob> = texts
            .iter()
            .filter_map(|text| GlobBuilder::new(text).literal_separator(true).build().ok())
            .collect();
        let paths: Vec<Vec<u8>> = paths.into_iter().map(String::into_bytes).collect();
        check(&globs, &paths);
    }
}
