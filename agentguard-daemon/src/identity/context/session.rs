//! What logind writes of its sessions, in files that say of themselves that others must not parse
//! them, but whose keys have been the same since 2011; asking over D-Bus needs logind to be there
//! and tells no more.

use std::path::Path;

use super::{Session, ownership};

/// Longest file that is read.
const MAX_BYTES: u64 = 64 << 10;

/// What the file of one session says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    class: Option<String>,
    service: Option<String>,
    user: Option<u32>,
}

impl Written {
    /// Reads the file of `session` in `directory`, where it is of `owner` and of the same user.
    pub(super) fn read(directory: &Path, session: &Session, owner: u32) -> Option<Self> {
        let text = ownership::read(owner, &directory.join(&session.id), MAX_BYTES).ok()?;
        let written = Self::parse(&text);
        (written.user == session.user).then_some(written)
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let found = text.lines().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name == key).then_some(value)
            })?;
            super::bounded(found)
        };
        Self {
            class: value("CLASS"),
            service: value("SERVICE"),
            user: value("UID").and_then(|uid| uid.parse().ok()),
        }
    }

    /// Its class.
    pub(super) fn class(&self) -> Option<&str> {
        self.class.as_deref()
    }

    /// Whether cron asked PAM for it.
    pub(super) fn is_of_cron(&self) -> bool {
        matches!(
            self.service.as_deref(),
            Some("cron" | "crond" | "cronie" | "fcron" | "anacron")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;

    const TEXT: &str = "# This is private data. Do not parse.\nUID=1000\nUSER=a\nACTIVE=1\n\
                        IS_DISPLAY=0\nSTATE=active\nREMOTE=0\nTYPE=unspecified\nCLASS=background\n\
                        SERVICE=crond\nPOSITION=0\n";

    #[test]
    fn a_file_of_another_user_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let owner = directory.path().metadata().unwrap().uid();
        fs::write(directory.path().join("c1"), TEXT).unwrap();
        let session = |user| Session {
            id: "c1".to_owned(),
            class: None,
            user: Some(user),
        };
        let written = Written::read(directory.path(), &session(1_000), owner).unwrap();
        assert_eq!(written.class(), Some("background"));
        assert!(written.is_of_cron());
        assert_eq!(
            Written::read(directory.path(), &session(1_001), owner),
            None
        );
        assert_eq!(
            Written::read(directory.path(), &session(1_000), owner + 1),
            None
        );
    }

    #[test]
    fn a_session_of_a_person_is_not_of_cron() {
        let written = Written::parse("UID=7\nCLASS=user\nSERVICE=sshd\nFAKE_SERVICE=crond\n");
        assert!(!written.is_of_cron());
        assert_eq!((written.class(), written.user), (Some("user"), Some(7)));
        assert_eq!(
            Written::parse("CLASS=\u{1b}[31m\nUID=-1"),
            Written::default()
        );
    }
}
