//! Every policy below `tests/broken` is refused with exactly the words beside it.
//!
//! A case is a file `NAME.toml` or a directory `NAME` of them, with `NAME.stderr`. After a change
//! of words on purpose, `AGENTGUARD_WRITE_GOLDEN=1` writes them anew, to be read before commit.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use agentguard_daemon::policy::{self, HostFacts};

const BROKEN: &str = "tests/broken";

#[test]
fn every_broken_policy_says_how_to_mend_it() {
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 120, "only {} cases", cases.len());
    for case in &cases {
        let loaded = policy::load(&policy::read_paths(std::slice::from_ref(case)));
        let Err(errors) = loaded.and_then(|policy| policy::compile(&policy, &host())) else {
            wrong.push(format!("{} is accepted", case.display()));
            continue;
        };
        for error in errors.iter() {
            assert!(
                error.help.is_some(),
                "no mend: {}\n{errors}",
                case.display()
            );
        }
        let golden = case.with_extension("stderr");
        let found = errors.render(false);
        if env::var_os("AGENTGUARD_WRITE_GOLDEN").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            wrong.push(format!(
                "{}: expected\n{expected}\nfound\n{found}",
                golden.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A host with few users and groups: `alice` is a member of both groups.
fn host() -> HostFacts {
    HostFacts {
        users: [("alice".to_owned(), 1000), ("bob".to_owned(), 1001)].into(),
        groups: [("staff".to_owned(), 50), ("deploy".to_owned(), 60)].into(),
        members: [(50, [1000].into()), (60, [1000].into())].into(),
        ..HostFacts::default()
    }
}

#[test]
fn every_golden_has_its_case() {
    let cases: BTreeSet<PathBuf> = cases()
        .iter()
        .map(|case| case.with_extension("stderr"))
        .collect();
    for path in entries() {
        if path
            .extension()
            .is_some_and(|extension| extension == "stderr")
        {
            assert!(cases.contains(&path), "{} has no case", path.display());
        }
    }
}

fn cases() -> BTreeSet<PathBuf> {
    entries()
        .filter(|path| path.is_dir() || path.extension().is_some_and(|end| end == "toml"))
        .collect()
}

fn entries() -> impl Iterator<Item = PathBuf> {
    fs::read_dir(Path::new(BROKEN))
        .expect("the directory of cases")
        .map(|entry| entry.expect("an entry").path())
}
