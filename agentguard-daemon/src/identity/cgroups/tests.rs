use std::os::unix::fs::symlink;

use super::*;

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:7 - cgroup2 cgroup2 rw
42 31 0:38 /sub /mnt/a\\040b rw - cgroup2 cgroup2 rw
";

#[test]
fn mounts_are_found_in_a_hybrid_layout() {
    let mount = |root: &str, point: &str| Mount {
        root: root.into(),
        point: point.into(),
    };
    assert_eq!(
        mounts(HYBRID),
        [
            mount("/", "/sys/fs/cgroup/unified"),
            mount("/sub", "/mnt/a b")
        ]
    );
}

#[test]
fn reported_paths_are_translated() {
    for (root, reported, expected) in [
        ("/sys/fs/cgroup/unified", "/a/b", Located::Inside(b"/a/b")),
        ("/sys/fs/cgroup/unified", "/", Located::Inside(b"/")),
        ("/sys/fs/cgroup/unified/x", "/x/b", Located::Inside(b"/b")),
        ("/sys/fs/cgroup/unified/x", "/x", Located::Inside(b"/")),
        ("/sys/fs/cgroup/unified/x", "/xy/b", Located::Outside),
        ("/mnt/a b", "/sub/b", Located::Inside(b"/b")),
        ("/mnt/a b", "/b", Located::Outside),
        ("/elsewhere", "/b", Located::Unclear),
    ] {
        let hierarchy = Hierarchy::new(Path::new(root), HYBRID, false);
        assert_eq!(
            hierarchy.locate(reported.as_bytes()),
            expected,
            "{root} {reported}"
        );
    }
}

#[test]
fn in_a_cgroup_namespace_paths_say_nothing() {
    let hierarchy = Hierarchy::new(Path::new("/sys/fs/cgroup/unified"), HYBRID, true);
    assert_eq!(hierarchy.locate(b"/a"), Located::Unclear);
}

#[test]
fn the_walk_visits_parents_first_and_follows_no_links() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/cgroup.procs"), "7\n8\n").unwrap();
    symlink("/", root.join("link")).unwrap();
    let mut seen = Vec::new();
    walk(root, &mut |cgroup, directory| {
        seen.push((cgroup.path.clone(), cgroup.depth, processes(directory)));
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            (b"/".to_vec(), 0, vec![]),
            (b"/a".to_vec(), 1, vec![7, 8]),
            (b"/a/b".to_vec(), 2, vec![]),
        ]
    );
    let id = fs::metadata(root.join("a/b")).unwrap().ino();
    assert_eq!(find(root, id).unwrap().as_deref(), Some(&b"/a/b"[..]));
}

#[test]
fn the_walk_ends_where_the_kernel_stops_looking() {
    let directory = tempfile::tempdir().unwrap();
    let deep = vec!["d"; MAX_CGROUP_DEPTH as usize + 3].join("/");
    fs::create_dir_all(directory.path().join(deep)).unwrap();
    let mut deepest = 0;
    walk(directory.path(), &mut |cgroup, _| deepest = cgroup.depth).unwrap();
    assert_eq!(deepest, MAX_CGROUP_DEPTH as usize);
}
