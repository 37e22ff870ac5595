use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// `path` with `ID` in place of its braces.
fn filled(path: &str) -> String {
    path.replace("{}", ID)
}

#[test]
fn a_unit_is_the_last_component_below_slices_only() {
    for (path, unit) in [
        ("/system.slice/sync@1.service", Some("sync@1.service")),
        ("/sync@1.service", Some("sync@1.service")),
        ("/agents.slice/agents-a.slice/x.scope", Some("x.scope")),
        ("/agents.slice", Some("agents.slice")),
        ("/system.slice/_cgroup.service", Some("cgroup.service")),
        ("/system.slice/sync@1.service/child", None),
        ("/system.slice/sync@1.service/other.service", None),
        (
            "/user.slice/user-1.slice/user@1.service/app.slice/a.service",
            None,
        ),
        ("/system.slice/docker-1.scope/a.service", None),
        ("/jobs/a.service", None),
        ("/system.slice/sync@1", None),
        ("/system.slice/.service", None),
        ("/", None),
    ] {
        assert_eq!(Context::of_path(path).unit.as_deref(), unit, "{path}");
    }
}

#[test]
fn slices_are_those_from_the_root_without_a_gap() {
    for (path, slices) in [
        (
            "/a.slice/a-b.slice/c.service",
            &["a.slice", "a-b.slice"][..],
        ),
        ("/a.slice", &["a.slice"]),
        ("/x.service/a.slice", &[]),
        (
            "/user.slice/user-1.slice/user@1.service/app.slice",
            &["user.slice", "user-1.slice"],
        ),
        ("/", &[]),
    ] {
        assert_eq!(Context::of_path(path).slices, slices, "{path}");
    }
}

#[test]
fn engines_of_root_name_their_containers() {
    for (path, runtime) in [
        ("/system.slice/docker-{}.scope", Runtime::Docker),
        ("/agents.slice/docker-{}.scope", Runtime::Docker),
        ("/docker/{}", Runtime::Docker),
        ("/agents.slice/docker/{}", Runtime::Docker),
        ("/machine.slice/libpod-{}.scope", Runtime::Podman),
        (
            "/machine.slice/machine-libpod_pod_1.slice/libpod-{}.scope",
            Runtime::Podman,
        ),
        ("/libpod_parent/libpod-{}", Runtime::Podman),
        ("/agents.slice/libpod-{}", Runtime::Podman),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-{}.scope",
            Runtime::Containerd,
        ),
        ("/kubepods/besteffort/pod1/{}", Runtime::Containerd),
        ("/kubepods/pod1/{}", Runtime::Containerd),
        ("/system.slice/nerdctl-{}.scope", Runtime::Containerd),
        (
            "/kubepods.slice/kubepods-pod1.slice/crio-{}.scope",
            Runtime::CriO,
        ),
        ("/kubepods/besteffort/pod1/crio-{}", Runtime::CriO),
    ] {
        let container = Context::of_path(&filled(path)).container.expect(path);
        assert_eq!(
            (container.runtime, container.id.as_str()),
            (runtime, ID),
            "{path}"
        );
        assert!(container.is_of_system(), "{path}");
    }
}

#[test]
fn like_names_are_no_containers() {
    let upper = ID.to_uppercase();
    for path in [
        "/system.slice/docker-0123.scope",
        "/system.slice/docker-{}0.scope",
        "/system.slice/docker-{}.scope/child",
        "/machine.slice/libpod-conmon-{}.scope",
        "/kubepods.slice/crio-conmon-{}.scope",
        // A pod of podman.
        "/libpod_parent/{}",
        "/{}",
        "/docker",
        "/docker/buildkit",
        "/",
    ] {
        assert_eq!(Context::of_path(&filled(path)).container, None, "{path}");
    }
    assert_eq!(
        Context::of_path(&format!("/docker/{upper}")).container,
        None
    );
}

#[test]
fn who_was_given_a_subtree_names_no_container_of_the_system() {
    for path in [
        "/system.slice/a.service/docker-{}.scope",
        "/system.slice/a.service/docker/{}",
        "/system.slice/a.scope/libpod-{}.scope",
        "/system.slice/a.service/libpod-payload-{}",
        "/system.slice/a.service/system.slice/docker-{}.scope",
        "/docker/{}/docker/{}",
        "/system.slice/docker-{}.scope/docker-{}.scope",
        "/user.slice/docker-{}.scope",
        "/user.slice/user-x.slice/docker-{}.scope",
        "/user.slice/user-01.slice/docker-{}.scope",
    ] {
        assert_eq!(Context::of_path(&filled(path)).container, None, "{path}");
    }
}

#[test]
fn a_container_of_a_user_says_so() {
    for path in [
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{}.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{}.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/a.service/libpod-payload-{}",
        "/user.slice/user-1000.slice/session-3.scope/libpod_parent/libpod-{}",
        "/user.slice/user-1000.slice/docker-{}.scope",
    ] {
        let container = Context::of_path(&filled(path)).container.expect(path);
        assert_eq!(container.rootless_of, Some(1_000), "{path}");
        assert!(!container.is_of_system(), "{path}");
    }
}

#[test]
fn only_the_engine_can_tell_of_candidates() {
    for path in [
        "/docker/{}",
        "/agents.slice/{}",
        "/system.slice/a.service/libpod-payload-{}",
    ] {
        let candidate = container::candidate(&filled(path)).expect(path);
        assert_eq!(candidate.id, ID, "{path}");
    }
    for path in [
        "/user.slice/user-1.slice/user@1.service/libpod-{}.scope",
        "/agents.slice/a.service",
        "/",
    ] {
        assert_eq!(container::candidate(&filled(path)), None, "{path}");
    }
}

#[test]
fn sessions_and_user_managers_stand_in_the_slice_of_their_user() {
    let session = |id: &str, class: Option<&str>| {
        Some(Session {
            id: id.to_owned(),
            class: class.map(str::to_owned),
            user: Some(1_000),
        })
    };
    for (path, expected) in [
        (
            "/user.slice/user-1000.slice/session-3.scope",
            session("3", None),
        ),
        (
            "/user.slice/user-1000.slice/session-c12.scope",
            session("c12", None),
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service",
            session("user@1000", Some("manager")),
        ),
        ("/user.slice/user-1000.slice/user@1001.service", None),
        ("/user.slice/user-1000.slice/session-.scope", None),
        ("/user.slice/user-1000.slice/session-a-b.scope", None),
        ("/user.slice/user-1000.slice", None),
        ("/user.slice/user-1000.slice/session-3.scope/x", None),
        (
            "/user.slice/user-1000.slice/user@1000.service/session-3.scope",
            None,
        ),
        ("/user.slice/user-+1000.slice/session-3.scope", None),
        ("/system.slice/user-1000.slice/session-3.scope", None),
        ("/jobs/user.slice/user-1000.slice/session-3.scope", None),
    ] {
        assert_eq!(Context::of_path(path).session, expected, "{path}");
    }
}

#[test]
fn cron_is_a_unit_of_the_system() {
    for (path, cron) in [
        ("/system.slice/cron.service", true),
        ("/system.slice/crond.service", true),
        ("/system.slice/anacron.service", true),
        ("/system.slice/micron.service", false),
        (
            "/user.slice/user-1.slice/user@1.service/cron.service",
            false,
        ),
    ] {
        assert_eq!(Context::of_path(path).cron, cron, "{path}");
    }
}
