//! The cgroup tree as it is now: ids, paths and processes.
#![forbid(unsafe_code)]

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use agentguard_common::capacity::MAX_CGROUP_DEPTH;
use nix::{
    dir::{Dir, Type},
    fcntl::{OFlag, openat},
    sys::stat::{Mode, fstat},
};

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its id in the kernel: the inode number of its directory.
    pub id: u64,
    /// Its path below the cgroup root, with a leading slash; the root itself is `/`. Whoever made it
    /// chose the bytes: any but NUL and newline.
    pub path: Vec<u8>,
    /// How far below the cgroup root it is.
    pub depth: usize,
}

/// Calls `visit` for the cgroup at `root` and all below it, parents first, with the directory of
/// each.
///
/// Cgroups that go away meanwhile are left out. What is deeper than the kernel programs look is not
/// visited.
///
/// # Errors
///
/// If `root` cannot be opened.
pub fn walk(root: &Path, visit: &mut impl FnMut(&Cgroup, &OwnedFd)) -> io::Result<()> {
    let directory: OwnedFd = fs::File::open(root)?.into();
    let cgroup = Cgroup {
        id: fs::File::from(directory.try_clone()?).metadata()?.ino(),
        path: b"/".to_vec(),
        depth: 0,
    };
    descend(directory, &cgroup, visit);
    Ok(())
}

fn descend(directory: OwnedFd, cgroup: &Cgroup, visit: &mut impl FnMut(&Cgroup, &OwnedFd)) {
    visit(cgroup, &directory);
    if cgroup.depth >= MAX_CGROUP_DEPTH as usize {
        return;
    }
    let Ok(listed) = directory.try_clone() else {
        return;
    };
    let Ok(mut entries) = Dir::from_fd(listed) else {
        return;
    };
    for entry in entries.iter().flatten() {
        let name = entry.file_name();
        if entry.file_type() != Some(Type::Directory) || matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let Ok(child) = openat(&directory, name, flags, Mode::empty()) else {
            continue;
        };
        let Ok(status) = fstat(&child) else {
            continue;
        };
        let parent = cgroup.path.strip_suffix(b"/").unwrap_or(&cgroup.path);
        let cgroup = Cgroup {
            id: status.st_ino,
            path: [parent, b"/", name.to_bytes()].concat(),
            depth: cgroup.depth + 1,
        };
        descend(child, &cgroup, visit);
    }
}

/// The path of the cgroup with `id` below `root`, if it is still there.
///
/// # Errors
///
/// If `root` cannot be opened.
pub fn find(root: &Path, id: u64) -> io::Result<Option<Vec<u8>>> {
    let mut found = None;
    walk(root, &mut |cgroup, _| {
        if cgroup.id == id {
            found = Some(cgroup.path.clone());
        }
    })?;
    Ok(found)
}

/// Processes directly in the cgroup; none where they cannot be read, as in a threaded cgroup.
#[must_use]
pub fn processes(directory: &OwnedFd) -> Vec<u32> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    match openat(directory, "cgroup.procs", flags, Mode::empty()) {
        Ok(file) => parse_pids(file.into()),
        Err(_) => Vec::new(),
    }
}

/// Those of the cgroup at `path` below `root`.
#[must_use]
pub fn processes_at(root: &Path, path: &[u8]) -> Vec<u32> {
    let below = path.strip_prefix(b"/").unwrap_or(path);
    let file = root.join(OsStr::from_bytes(below)).join("cgroup.procs");
    fs::File::open(file).map_or_else(|_| Vec::new(), parse_pids)
}

fn parse_pids(mut file: fs::File) -> Vec<u32> {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) => text.lines().filter_map(|line| line.parse().ok()).collect(),
        Err(_) => Vec::new(),
    }
}

/// Whether the cgroup at `path` below `root`, or one below it, has processes; also where that cannot
/// be told of a cgroup that is there.
#[must_use]
pub fn is_populated(root: &Path, path: &[u8]) -> bool {
    let below = path.strip_prefix(b"/").unwrap_or(path);
    let file = root.join(OsStr::from_bytes(below)).join("cgroup.events");
    match fs::read_to_string(file) {
        Ok(text) => text.lines().any(|line| line == "populated 1"),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Whether there are cgroups below the one at `path`.
#[must_use]
pub fn has_children(root: &Path, path: &[u8]) -> bool {
    let below = path.strip_prefix(b"/").unwrap_or(path);
    fs::read_dir(root.join(OsStr::from_bytes(below))).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    })
}

/// Where the cgroup root stands in its hierarchy, to translate the paths that the kernel reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Path of the cgroup root from the root of the hierarchy, empty for that root itself. `None`
    /// in a cgroup namespace: what this process sees is not what the kernel reports.
    prefix: Option<Vec<u8>>,
}

/// A mount of the cgroup v2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The cgroup that is mounted, from the root of the hierarchy.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
}

/// Where a reported path is below the cgroup root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located<'a> {
    /// Here, with a leading slash.
    Inside(&'a [u8]),
    /// Not below it.
    Outside,
    /// Cannot be told from the path: look for the id.
    Unclear,
}

impl Hierarchy {
    /// Of the cgroup root at `root`, seen through the mounts that `mountinfo` lists.
    /// `in_namespace` tells that the process is in a cgroup namespace of its own.
    #[must_use]
    pub fn new(root: &Path, mountinfo: &str, in_namespace: bool) -> Self {
        let prefix = mounts(mountinfo)
            .into_iter()
            .filter_map(|mount| {
                let below = root.strip_prefix(&mount.point).ok()?;
                Some((mount.point.as_os_str().len(), mount.root.join(below)))
            })
            .max_by_key(|(length, _)| *length)
            .map(|(_, path)| path.as_os_str().as_bytes().to_vec())
            .filter(|_| !in_namespace);
        Self {
            prefix: prefix.map(|path| path.strip_suffix(b"/").map_or(path.clone(), <[u8]>::to_vec)),
        }
    }

    /// Translates a path that the kernel reported.
    #[must_use]
    pub fn locate<'a>(&self, reported: &'a [u8]) -> Located<'a> {
        let Some(prefix) = &self.prefix else {
            return Located::Unclear;
        };
        match reported.strip_prefix(prefix.as_slice()) {
            Some([]) => Located::Inside(b"/"),
            Some(below @ [b'/', ..]) => Located::Inside(below),
            Some(_) | None => Located::Outside,
        }
    }
}

/// The cgroup v2 mounts that `/proc/self/mountinfo` lists, in its order.
#[must_use]
pub fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (fields, kind) = line.split_once(" - ")?;
            let mut fields = fields.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            (kind.split(' ').next()? == "cgroup2").then(|| Mount {
                root: unescape(root),
                point: unescape(point),
            })
        })
        .collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut plain = field.to_owned();
    for (code, character) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        plain = plain.replace(code, character);
    }
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests;
