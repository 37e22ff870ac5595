//! An image made from nothing but the probe.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::PROBE;
use crate::agent::probe_path;

/// The archive of an image with the probe and what it is linked to; made in `files`, once.
pub(super) fn archive(files: &Path) -> PathBuf {
    let archive = files.join("image.tar");
    if archive.exists() {
        return archive;
    }
    let root = files.join("root");
    fill(&root);
    let tar = Command::new("tar")
        .args([Path::new("-C"), &root, Path::new("-cf"), &archive])
        .arg(".")
        .status()
        .expect("start tar");
    assert!(tar.success(), "tar: {tar}");
    archive
}

fn fill(root: &Path) {
    copy(&probe_path(), root, Path::new(PROBE));
    let listed = Command::new("ldd")
        .arg(probe_path())
        .output()
        .expect("start ldd");
    let listed = String::from_utf8(listed.stdout).expect("ldd prints text");
    for library in listed.split_whitespace().filter(|it| it.starts_with('/')) {
        let library = Path::new(library);
        copy(library, root, library);
    }
    for directory in ["proc", "sys", "dev", "run", "tmp", "etc"] {
        fs::create_dir(root.join(directory)).expect("make a directory");
    }
}

fn copy(from: &Path, root: &Path, to: &Path) {
    let to = root.join(to.strip_prefix("/").expect("it is absolute"));
    let directory = to.parent().expect("it is below the root");
    fs::create_dir_all(directory).expect("make directories");
    fs::copy(from, &to).unwrap_or_else(|error| panic!("copy {from:?}: {error}"));
}
