use super::*;
use crate::identity::{context::Runtime, select::Ground};

fn nobodys() -> Selected {
    Selected {
        index: 0,
        rank: agentguard_common::cgroup::Rank::Default,
        ground: Ground::Nothing,
        at: 0,
        facts: 0,
        choices: Vec::new(),
        before: Vec::new(),
        cut: false,
    }
}

fn place(path: &str, change: impl Fn(&mut Context)) -> Place {
    let mut chain: Vec<(u64, Context)> = (1..).zip(Context::chain_of_path(path)).collect();
    for (_, context) in &mut chain {
        change(context);
    }
    Place::new(path.as_bytes(), &chain, nobodys())
}

#[test]
fn a_removed_cgroup_is_remembered_for_a_while() {
    let mut places = Places::default();
    places.insert(1, place("/a", |_| {}));
    places.remove(1);
    assert_eq!(*places.get(1).unwrap().path, *b"/a");
    for id in 2..2 + REMEMBERED as u64 {
        places.insert(id, place("/b", |_| {}));
        places.remove(id);
    }
    assert!(places.get(1).is_none());
    assert_eq!(*places.get(2).unwrap().path, *b"/b");
}

#[test]
fn a_cgroup_is_in_the_unit_that_is_nearest_and_in_its_run() {
    let told = place("/system.slice/a.service/child", |context| {
        if context.unit.as_deref() == Some("a.service") {
            context.run_id = Some("0123".to_owned());
        }
    })
    .told;
    assert_eq!(told.unit, Some(Untrusted::new(b"a.service")));
    assert_eq!(told.run, "0123");
    assert_eq!(
        place("/system.slice/a.service/child", |_| {}).told.run,
        "cgroup-3"
    );
    let slice = place("/system.slice", |_| {}).told;
    assert_eq!(
        (slice.unit.as_ref(), slice.run.as_str()),
        (None, "cgroup-2")
    );
}

#[test]
fn a_cgroup_is_in_a_container() {
    let id = "0".repeat(64);
    let path = format!("/machine.slice/libpod-{id}.scope/container");
    let told = place(&path, |context| {
        if let Some(container) = &mut context.container {
            container.name = Some("web".to_owned());
        }
    })
    .told;
    let container = told.container.as_ref().unwrap();
    assert_eq!(container.runtime, Runtime::Podman.name());
    assert_eq!(container.id, Untrusted::new(id.as_bytes()));
    assert_eq!(container.name, Some(Untrusted::new(b"web")));
    assert_eq!(told.run, "cgroup-3");
}

#[test]
fn the_cgroups_above_have_depths() {
    let found = place("/a/b/c", |_| {});
    assert_eq!(found.depth(), 3);
    assert_eq!(found.above(0), "/");
    assert_eq!(found.above(2), "/a/b");
    assert_eq!(place("/", |_| {}).depth(), 0);
}
