//! Containers of a real podman: whom their name, image and labels make them, and when.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{chown, symlink},
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    audit,
    daemon::Daemon,
    judge::Judge,
    network::{ALLOWED_ZONE, Zone},
    podman::{CONTAINERS, Podman},
    probe::NOBODY,
    world::PORT,
};
use serde_json::{Value, json};

use crate::scene::{ENFORCED, Scene};

/// Nobody in particular: what no selector matches may do everything.
const FREE: [bool; 2] = [false, false];

/// How long a container may take to become known by more than its path.
const PATIENCE: Duration = Duration::from_secs(60);

const TOOL: &str = "example.com/team/tool:1";
const OTHER: &str = "example.com/team/other:1";

/// Something done to a socket.
type Change<'a> = &'a dyn Fn() -> io::Result<()>;

/// A policy whose identity `bot`, which may reach the allowed zone, is chosen by this selector.
fn policy(selector: &str) -> String {
    let [v4, v6] = ALLOWED_ZONE;
    format!(
        "[roles.r]\n[[roles.r.egress]]\naddresses = [\"{v4}\", \"{v6}\"]\n\
         [identities.bot]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"r\"]\n\
         match = [{{ {selector} }}]\n"
    )
}

/// A daemon that finds the socket of `podman` where those of hosts are.
fn start(scene: &Scene, podman: &Podman<'_>, policy: &str) -> Daemon {
    let mut daemon = Daemon::prepare(&scene.sandbox, policy);
    podman.show_socket(daemon.mounts());
    daemon.restart();
    daemon
}

/// A judge in a new container.
fn judge(podman: &Podman<'_>, options: &[&str], image: &str) -> Judge {
    Judge::from(podman.run(options, image, &["judge"]))
}

/// Waits until the judge is refused this.
fn wait_until(scene: &Scene, judge: &mut Judge, expected: [bool; 2], what: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let refused = scene.refusals(judge);
        if refused == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {refused:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The record of a refusal.
fn refusal(scene: &Scene, daemon: &Daemon, judge: &mut Judge) -> Value {
    let target = scene.target(Zone::Denied);
    assert_eq!(judge.ask([SocketAddr::new(target, PORT)]), [true]);
    let record = daemon.events().wait_for("the refusal", |event| {
        event["dst_endpoint"]["ip"] == target.to_string()
    });
    assert_eq!(audit::identity(&record), "bot");
    record
}

/// What a record tells of the container.
fn container(record: &Value) -> &Value {
    &record["actor"]["process"]["container"]
}

#[test]
fn containers_are_known_by_name_image_and_label() {
    let scene = Scene::new();
    let mut podman = Podman::new(&scene.sandbox);
    podman.make_image(TOOL);
    podman.make_image(OTHER);
    podman.serve();
    let named = "container = { runtime = \"podman\", name = \"web-*\" }";
    let daemon = start(&scene, &podman, &policy(named));
    let options = ["--name=web-1", "--label=team=a", "--label=tier=front"];
    let mut web = judge(&podman, &options, TOOL);
    let mut job = judge(&podman, &["--name=job-1", "--label=team=b"], OTHER);
    wait_until(&scene, &mut web, ENFORCED, "it is known by its name");
    assert_eq!(scene.refusals(&mut job), FREE);
    let record = refusal(&scene, &daemon, &mut web);
    assert_eq!(
        *container(&record),
        json!({
            "uid": podman.id("web-1"),
            "runtime": "podman",
            "name": "web-1",
            "image": { "uid": TOOL },
        })
    );
    let cgroup = format!("/{CONTAINERS}/libpod-{}", podman.id("web-1"));
    assert_eq!(*audit::own(&record, "cgroup"), cgroup);
    let mut executed = Judge::from(podman.exec("web-1", &["judge"]));
    assert_eq!(scene.refusals(&mut executed), ENFORCED);

    // Whoever is known is known to every policy at once.
    let both = "container = { runtime = \"podman\", name = \"*-1\" }";
    daemon.reload(&policy(both));
    wait_until(&scene, &mut job, ENFORCED, "it is known by its name");
    for (selector, of_web, of_job) in [
        ("runtime = \"podman\"", ENFORCED, ENFORCED),
        ("runtime = \"docker\"", FREE, FREE),
        ("id = \"*\"", ENFORCED, ENFORCED),
        ("image = \"example.com/*/tool:*\"", ENFORCED, FREE),
        (
            "image = \"example.com/**\", name = \"job-*\"",
            FREE,
            ENFORCED,
        ),
        ("image = \"example.com/*\"", FREE, FREE),
        ("labels = { team = \"a\" }", ENFORCED, FREE),
        ("labels = { team = \"?\" }", ENFORCED, ENFORCED),
        (
            "labels = { team = \"?\", tier = \"front\" }",
            ENFORCED,
            FREE,
        ),
        ("labels = { tier = \"a\" }", FREE, FREE),
    ] {
        daemon.reload(&policy(&format!("container = {{ {selector} }}")));
        assert_eq!(scene.refusals(&mut web), of_web, "web: {selector}");
        assert_eq!(scene.refusals(&mut job), of_job, "job: {selector}");
    }
}

#[test]
fn a_container_is_closed_from_its_first_packet_if_policy_names_the_cgroup_above() {
    const QUESTIONS: u32 = 300;
    let scene = Scene::new();
    let mut podman = Podman::new(&scene.sandbox);
    podman.make_image(TOOL);
    podman.serve();
    let named = policy("container = { name = \"web-1\" }");
    let policy = format!(
        "{named}[roles.nothing]\n[[roles.nothing.egress]]\nzones = [\"any\"]\nports = [\"1/tcp\"]\n\
         [identities.pod]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"nothing\"]\n\
         match = [{{ cgroup = \"/{CONTAINERS}\" }}]\n"
    );
    let denied = SocketAddr::new(scene.target(Zone::Denied), PORT);
    let arguments = ["storm", &QUESTIONS.to_string(), &denied.to_string()];
    let refused = || {
        let storm = podman.run(&["--name=web-1", "--rm"], TOOL, &arguments);
        let output = storm.wait_with_output().expect("a storm ends");
        let refused = String::from_utf8_lossy(&output.stdout);
        refused.trim().parse::<u32>().expect("it prints a number")
    };
    // The cgroup above comes with the first container, and stays.
    assert_eq!(refused(), 0);
    let mut daemon = start(&scene, &podman, &policy);
    assert_eq!(refused(), QUESTIONS, "before and after it is known");
    daemon.kill();
    assert_eq!(refused(), QUESTIONS, "nobody says who it is");
    daemon.restart();

    let mut web = judge(&podman, &["--name=web-1"], TOOL);
    wait_until(&scene, &mut web, ENFORCED, "it gets what its name may do");
    let mut job = judge(&podman, &["--name=job-1"], TOOL);
    assert_eq!(scene.refusals(&mut job), [true, true]);
}

#[test]
fn a_container_made_again_under_its_name_is_known_again() {
    let scene = Scene::new();
    let mut podman = Podman::new(&scene.sandbox);
    podman.make_image(TOOL);
    podman.serve();
    let selector = "container = { name = \"web-1\" }";
    let mut daemon = start(&scene, &podman, &policy(selector));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut web = judge(&podman, &["--name=web-1"], TOOL);
        wait_until(&scene, &mut web, ENFORCED, "it is known");
        let record = refusal(&scene, &daemon, &mut web);
        let container = container(&record);
        assert_eq!(container["uid"], podman.id("web-1"));
        ids.push(container["uid"].clone());
        podman.ask(&["rm", "--force", "--time=0", "web-1"]);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");

    // One that was made while no daemon ran.
    daemon.stop();
    let mut web = judge(&podman, &["--name=web-1"], TOOL);
    let _running = podman.id("web-1");
    daemon.restart();
    wait_until(&scene, &mut web, ENFORCED, "it is known");
}

#[test]
fn a_socket_that_is_not_roots_is_not_asked_and_the_path_still_counts() {
    let scene = Scene::new();
    let mut podman = Podman::new(&scene.sandbox);
    podman.make_image(TOOL);
    podman.serve();
    let socket = podman.socket();
    let real = socket.with_file_name("real.sock");
    let selector = "container = { name = \"web-1\" }";
    let mut web = judge(&podman, &["--name=web-1"], TOOL);
    let id = podman.id("web-1");

    let give = |owner| chown(&socket, Some(owner), None);
    let move_away = || {
        fs::rename(&socket, &real)?;
        symlink(&real, &socket)
    };
    let move_back = || fs::rename(&real, &socket);
    let of_nobody: [Change<'_>; 2] = [&|| give(NOBODY), &|| give(0)];
    let linked: [Change<'_>; 2] = [&move_away, &move_back];
    for (how, [spoil, mend]) in [("it is nobody's", of_nobody), ("it is a link", linked)] {
        spoil().expect("spoil the socket");
        let mut daemon = start(&scene, &podman, &policy(selector));
        let refusal = "an engine is not asked";
        let deadline = Instant::now() + PATIENCE;
        while !daemon.log().contains(refusal) {
            assert!(Instant::now() < deadline, "{how}: {}", daemon.log());
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(scene.refusals(&mut web), FREE, "{how}");
        daemon.reload(&policy(&format!("container = {{ id = \"{id}\" }}")));
        assert_eq!(scene.refusals(&mut web), ENFORCED, "{how}");
        daemon.stop();
        assert!(daemon.cli(&["detach"]).status.success());
        drop(daemon);
        mend().expect("mend the socket");
    }
    let _daemon = start(&scene, &podman, &policy(selector));
    wait_until(&scene, &mut web, ENFORCED, "the socket is mended");
}

#[test]
fn labels_of_enemies_hide_no_container_and_break_no_record() {
    let scene = Scene::new();
    let mut podman = Podman::new(&scene.sandbox);
    podman.make_image(TOOL);
    podman.serve();
    let daemon = start(&scene, &podman, &policy("container = { name = \"web-1\" }"));
    let label = |key: &str, value: &str| format!("--label={key}={value}");
    let labels = [
        label("escape", "a\u{1b}[31m"),
        label("line", "a\n{\"actor\": 1}\r"),
        label("\u{1b}]0;key\u{7}", "a"),
        label("quote", "a\"},{"),
        label("longest", &"a".repeat(4_096)),
        label("longer", &"a".repeat(4_097)),
        label("empty", ""),
    ];
    let mut options: Vec<&str> = labels.iter().map(String::as_str).collect();
    options.push("--name=web-1");
    let mut web = judge(&podman, &options, TOOL);
    wait_until(&scene, &mut web, ENFORCED, "it is known");
    let record = refusal(&scene, &daemon, &mut web);
    let container = container(&record);
    assert_eq!(container["name"], "web-1");
    assert_eq!(container["image"]["uid"], TOOL);
    let records = daemon.events();
    assert!(
        !records
            .text()
            .contains(|it: char| it.is_control() && it != '\n')
    );
    let records = records.read();
    assert!(records.iter().all(|record| record["class_uid"].is_u64()));

    // What is too long or no plain text says nothing.
    for (key, expected) in [
        ("escape", FREE),
        ("line", FREE),
        ("quote", ENFORCED),
        ("longest", ENFORCED),
        ("longer", FREE),
    ] {
        let selector = format!("container = {{ labels = {{ {key} = \"a*\" }} }}");
        daemon.reload(&policy(&selector));
        assert_eq!(scene.refusals(&mut web), expected, "{key}");
    }
    daemon.reload(&policy("container = { labels = { empty = \"*\" } }"));
    assert_eq!(scene.refusals(&mut web), ENFORCED, "empty");
}
