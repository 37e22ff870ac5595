use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::identity::context::engine::tests::{answer, engine};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A tree of directories that stands for cgroups, and sockets beside it.
struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        fs::create_dir(directory.path().join("sessions")).unwrap();
        Self { directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn sources(&self) -> Sources {
        Sources {
            cgroup_root: self.at("root"),
            bus: None,
            sessions: self.at("sessions"),
            engines: vec![(Runtime::Docker, self.at("docker.sock"))],
            owner: self.directory.path().metadata().unwrap().uid(),
        }
    }

    /// Makes the cgroup at `path` with a process in it.
    fn add(&self, path: &str, pid: u32) -> OwnedFd {
        let cgroup = self.at("root").join(&path[1..]);
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), format!("{pid}\n")).unwrap();
        File::open(cgroup).unwrap().into()
    }
}

#[tokio::test]
async fn a_container_gets_its_name_later() {
    let tree = Tree::new();
    engine(
        &tree.at("docker.sock"),
        "200 OK",
        answer(ID, 7).into_bytes(),
    );
    let mut resolver = Resolver::new(tree.sources()).unwrap();
    for (id, path) in [
        (1, format!("/system.slice/docker-{ID}.scope")),
        // What only the engine can tell.
        (2, format!("/agents.slice/{ID}")),
    ] {
        let directory = tree.add(&path, 7);
        let at_once = resolver.context(id, &path, Some(&directory));
        assert!(
            at_once
                .container
                .is_none_or(|container| container.name.is_none())
        );
        let (answered, context) = resolver.next().await;
        assert_eq!(answered, id);
        assert_eq!(
            context.container.as_ref().unwrap().name.as_deref(),
            Some("web-1")
        );
        // Remembered, for this path only.
        assert_eq!(resolver.context(id, &path, None), context);
        assert_eq!(
            resolver.context(id, "/other", None),
            Context::of_path("/other")
        );
    }
}

#[tokio::test]
async fn who_takes_the_name_of_a_container_gets_none_of_it() {
    let tree = Tree::new();
    engine(
        &tree.at("docker.sock"),
        "200 OK",
        answer(ID, 7).into_bytes(),
    );
    let mut resolver = Resolver::new(tree.sources()).unwrap();
    let forged = format!("/system.slice/a.service/docker-{ID}.scope");
    let directory = tree.add(&forged, 8);
    assert_eq!(
        resolver.context(1, &forged, Some(&directory)).container,
        None
    );
    // The answer about the real one comes later, and there is none about the other before it.
    let real = format!("/system.slice/docker-{ID}.scope");
    let directory = tree.add(&real, 7);
    resolver.context(2, &real, Some(&directory));
    assert_eq!(resolver.next().await.0, 2);
}

#[tokio::test]
async fn a_session_gets_its_class_later() {
    let tree = Tree::new();
    fs::write(
        tree.at("sessions/7"),
        "UID=1000\nCLASS=background\nSERVICE=cron\n",
    )
    .unwrap();
    let mut resolver = Resolver::new(tree.sources()).unwrap();
    let path = "/user.slice/user-1000.slice/session-7.scope";
    assert!(!resolver.context(1, path, None).cron);
    let (_, context) = resolver.next().await;
    assert_eq!(
        context.session.unwrap().class.as_deref(),
        Some("background")
    );
    assert!(context.cron);
}

#[tokio::test]
async fn below_a_directory_of_others_names_prove_nothing() {
    let tree = Tree::new();
    let mut resolver = Resolver::new(tree.sources()).unwrap();
    let mut context = |id: u64, path: &str| {
        let directory = tree.add(path, 1);
        resolver.context(id, path, Some(&directory))
    };
    for (id, path) in [
        (1, "/agents.slice/a.service"),
        (2, "/user.slice/user-1.slice/session-1.scope"),
        (3, "/system.slice/cron.service"),
    ] {
        assert!(context(id, path).unit.is_some(), "{path}");
        let above = tree.at("root").join(&path[1..]);
        fs::set_permissions(above.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
        let expected = Context {
            path: path.to_owned(),
            ..Context::default()
        };
        assert_eq!(context(id + 10, path), expected, "{path}");
    }
    // What a user says of his own container stays.
    let path = format!("/user.slice/user-1.slice/user@1.service/libpod-{ID}.scope");
    assert_eq!(context(20, &path).container.unwrap().rootless_of, Some(1));
    assert!(
        context(21, &format!("/system.slice/docker-{ID}.scope"))
            .container
            .is_none()
    );
}

#[tokio::test]
async fn what_is_forgotten_is_not_answered_and_the_memory_is_bounded() {
    let tree = Tree::new();
    fs::write(tree.at("sessions/7"), "UID=1\nCLASS=user\n").unwrap();
    let mut resolver = Resolver::new(tree.sources()).unwrap();
    let path = "/user.slice/user-1.slice/session-7.scope";
    resolver.context(1, path, None);
    resolver.forget(1);
    resolver.context(2, path, None);
    assert_eq!(resolver.next().await.0, 2);
    for id in 3..u64::from(MAX_CGROUPS) + 10 {
        resolver.context(id, "/jobs", None);
        resolver.forget(id - 1);
    }
    assert!(resolver.order.len() <= MAX_CGROUPS as usize);
    assert!(resolver.known.len() <= MAX_CGROUPS as usize);
}

#[tokio::test(start_paused = true)]
async fn a_host_with_nobody_to_ask_is_quiet() {
    let tree = Tree::new();
    let mut resolver = Resolver::new(Sources {
        engines: Vec::new(),
        ..tree.sources()
    })
    .unwrap();
    for path in ["/system.slice/a.service", "/docker/x", "/"] {
        let context = resolver.context(1, path, None);
        assert_eq!(context, Context::of_path(path));
    }
    let waited = tokio::time::timeout(Duration::from_secs(3_600), resolver.next()).await;
    assert!(waited.is_err());
}
