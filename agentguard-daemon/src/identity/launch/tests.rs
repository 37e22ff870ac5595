use std::os::unix::net::UnixStream;

use super::*;
use crate::policy::compiled::Location;

fn launcher(users: &[u32], groups: &[u32], identities: &[&str]) -> Launcher {
    Launcher {
        users: users.iter().copied().collect(),
        groups: groups.iter().copied().collect(),
        identities: identities
            .iter()
            .map(|glob| globset::Glob::new(glob).unwrap().compile_matcher())
            .collect(),
        location: Location {
            file: "test.toml".into(),
            line: 1,
            column: 1,
        },
    }
}

fn caller(user: u32, groups: &[u32]) -> Caller {
    let (socket, _other) = UnixStream::pair().unwrap();
    let mut caller = Caller::of(&socket).unwrap();
    caller.user = user;
    caller.groups = groups.to_vec();
    caller
}

#[test]
fn a_launcher_names_who_and_what() {
    let launchers = [
        launcher(&[1_000], &[], &["sync-*"]),
        launcher(&[], &[50], &["report", "audit"]),
        launcher(&[], &[], &["*"]),
        launcher(&[1_001], &[], &[]),
    ];
    for (user, groups, identity, expected) in [
        (1_000, &[][..], "sync-a", true),
        (1_000, &[], "report", false),
        (1_001, &[], "sync-a", false),
        (1_001, &[7, 50], "report", true),
        (1_001, &[50], "sync-a", false),
        (50, &[1_000], "report", false),
        (50, &[1_000], "sync-a", false),
        (0, &[], "anything", true),
        (1_002, &[0], "anything", false),
    ] {
        let caller = caller(user, groups);
        assert_eq!(
            permits(&launchers, &caller, identity),
            expected,
            "{user} {groups:?} {identity}"
        );
    }
}
