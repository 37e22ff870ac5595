//! Whether nobody but one owner, root, could have made or changed something.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, openat},
    libc,
    sys::stat::Mode,
};

/// Links that a path may go through, as in the kernel.
const MAX_LINKS: usize = 40;

/// Write permission of the group and of others.
const WRITABLE: u32 = 0o022;

/// Whether `path` and every directory and link on the way to it are of `owner` and writable by
/// nobody else, so that nobody else chose what is there.
pub(super) fn is_of(owner: u32, path: &Path) -> io::Result<bool> {
    let mut links = 0;
    let mut at = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = names(path);
    if !is_kept(owner, &fs::symlink_metadata(&at)?) {
        return Ok(false);
    }
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(name);
        let metadata = fs::symlink_metadata(&at)?;
        if metadata.is_symlink() {
            links += 1;
            if metadata.uid() != owner || links > MAX_LINKS {
                return Ok(false);
            }
            let target = fs::read_link(&at)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            } else {
                at.pop();
            }
            for name in names(&target).into_iter().rev() {
                rest.push_front(name);
            }
        } else if !is_kept(owner, &metadata) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn is_kept(owner: u32, metadata: &Metadata) -> bool {
    metadata.uid() == owner && metadata.mode() & WRITABLE == 0
}

/// Whether the `depth` directories above `directory` are of `owner` and writable by nobody else.
pub(super) fn is_below(owner: u32, directory: &OwnedFd, depth: usize) -> io::Result<bool> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut above: Option<OwnedFd> = None;
    for _ in 0..depth {
        let from = above.as_ref().map_or(directory.as_fd(), AsFd::as_fd);
        let parent = openat(from, "..", flags, Mode::empty())?;
        if !is_kept(owner, &File::from(parent.try_clone()?).metadata()?) {
            return Ok(false);
        }
        above = Some(parent);
    }
    Ok(true)
}

/// The text of a file of `owner` that is not longer than `limit`.
pub(super) fn read(owner: u32, path: &Path, limit: u64) -> io::Result<String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || !is_kept(owner, &metadata) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn every_step_of_a_path_must_be_of_the_owner() {
        assert!(is_of(0, Path::new("/etc/passwd")).unwrap());
        assert!(!is_of(1, Path::new("/etc/passwd")).unwrap());
        assert!(is_of(0, Path::new("/nonexistent/x")).is_err());
        // Everybody may write to the directory above this one.
        let own = tempfile::tempdir().unwrap();
        let file = own.path().join("unit");
        fs::write(&file, "").unwrap();
        assert!(!is_of(0, &file).unwrap());
        let link = own.path().join("link");
        symlink("/etc/passwd", &link).unwrap();
        assert!(!is_of(0, &link).unwrap());
    }

    #[test]
    fn links_are_followed_step_by_step() {
        // `/bin` is a link to `usr/bin`, and `sh` there is one too.
        let bin = Path::new("/bin/../bin/sh");
        assert!(fs::symlink_metadata(bin).unwrap().is_symlink());
        assert!(is_of(0, bin).unwrap());
    }

    #[test]
    fn directories_above_are_looked_at_to_the_depth() {
        let own = tempfile::tempdir().unwrap();
        let owner = own.path().metadata().unwrap().uid();
        let deep = own.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        let directory: OwnedFd = File::open(&deep).unwrap().into();
        assert!(is_below(owner, &directory, 3).unwrap());
        assert!(!is_below(owner + 1, &directory, 3).unwrap());
        // Its own owner and mode do not matter: those may be given away.
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(is_below(owner, &directory, 3).unwrap());
        fs::set_permissions(own.path().join("a"), fs::Permissions::from_mode(0o775)).unwrap();
        assert!(!is_below(owner, &directory, 3).unwrap());
        assert!(is_below(owner, &directory, 1).unwrap());
    }

    #[test]
    fn a_file_is_read_if_it_is_short_and_of_the_owner() {
        let own = tempfile::tempdir().unwrap();
        let owner = own.path().metadata().unwrap().uid();
        let file = own.path().join("session");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read(owner, &file, 5).unwrap(), "12345");
        assert!(read(owner, &file, 4).is_err());
        assert!(read(owner + 1, &file, 5).is_err());
        let link = own.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(read(owner, &link, 5).is_err());
        assert!(read(owner, own.path(), 5).is_err());
    }
}
