//! Files that policy knows by their hash: read when policy is loaded, and trusted until they change.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use agentguard_common::executable::HashedFile;
use sha2::{Digest as _, Sha256};

use crate::{kernel::FilePlace, policy::selection::HashFacts};

/// How old the last change must be. Within one tick of the kernel's clock, which is 10 ms at most, two
/// changes have the same time.
const SETTLED: Duration = Duration::from_millis(20);

/// A file that has a hash that it should.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    /// Where it is.
    pub place: FilePlace,
    /// What the kernel keeps of it.
    pub file: HashedFile,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// The files that have a hash that they should, with the time of their last change: the kernel programs
/// compare it at each exec, so that a file that was changed meanwhile is not taken for the one hashed.
pub(super) fn verify(wanted: &[HashFacts]) -> Vec<Verified> {
    let mut verified: Vec<Verified> = Vec::new();
    for facts in wanted {
        for path in &facts.paths {
            match hash(path) {
                Ok((place, file, digest)) if facts.sha256.contains(&digest) => {
                    let known = verified.iter_mut().find(|known| known.place == place);
                    match known {
                        Some(known) => known.file.facts |= facts.facts,
                        None => verified.push(Verified {
                            place,
                            file: HashedFile {
                                facts: facts.facts,
                                ..file
                            },
                            sha256: digest,
                        }),
                    }
                }
                Ok(_) => tracing::warn!(
                    path = %path.display(),
                    "the file has another hash than policy says: its selector matches nothing"
                ),
                Err(error) => tracing::warn!(
                    %error,
                    path = %path.display(),
                    "the file cannot be hashed: its selector matches nothing"
                ),
            }
        }
    }
    verified
}

fn hash(path: &Path) -> io::Result<(FilePlace, HashedFile, [u8; 32])> {
    let mut file = File::open(path)?;
    let place = FilePlace::of_file(&file)?;
    let before = file.metadata()?;
    if !before.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let changed = (before.ctime(), before.ctime_nsec());
    let age = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH + Duration::new(before.ctime().unsigned_abs(), 0));
    if age.is_ok_and(|age| age < SETTLED + Duration::from_secs(1)) {
        std::thread::sleep(SETTLED);
    }
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
    }
    let after = file.metadata()?;
    if changed != (after.ctime(), after.ctime_nsec()) {
        return Err(io::Error::other("it was changed while it was read"));
    }
    let file = HashedFile {
        facts: 0,
        changed_s: changed.0.cast_unsigned(),
        changed_ns: changed.1.cast_unsigned(),
    };
    Ok((place, file, hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the empty file (FIPS 180-4).
    const EMPTY: [u8; 32] = [
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ];

    #[test]
    fn only_files_with_the_hash_are_verified() {
        let directory = tempfile::tempdir().unwrap();
        let [good, bad] = ["good", "bad"].map(|name| directory.path().join(name));
        std::fs::write(&good, "").unwrap();
        std::fs::write(&bad, "x").unwrap();
        let wanted = |paths: &[&Path], facts| HashFacts {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
            sha256: vec![EMPTY],
            facts,
        };
        let gone = directory.path().join("gone");
        let verified = verify(&[
            wanted(&[&good, &bad, &gone, directory.path()], 4),
            wanted(&[&good], 8),
        ]);
        let [only] = verified.as_slice() else {
            panic!("{verified:?}");
        };
        assert_eq!(only.place, FilePlace::of_path(&good).unwrap());
        assert_eq!(only.file.facts, 12);
        assert_eq!(only.sha256, EMPTY);
    }
}
