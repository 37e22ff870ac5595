//! Processes that come about in every way there is, by the thousand: each is judged as who it is.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
};

use agentguard_tests::{
    agent::probe_path,
    audit,
    cgroup::Cgroup,
    crowd::Tally,
    daemon::Daemon,
    network::{ALLOWED_ZONE, DENIED_ZONE, Zone},
    world::PORT,
};

use crate::scene::Scene;

/// Of 72 children and 4 moves for each of two crowds, each of which connects twice: 100,800 children and
/// 212,800 connects.
const ROUNDS: u32 = 700;

/// Three identities that the answers to two questions tell apart: `left` and `right` are cgroups', and
/// each is refused one zone; `tool` is an executable's, and is refused both.
fn policy(tool: &Path) -> String {
    let role = |name, [v4, v6]: [&str; 2]| {
        format!("[roles.{name}]\n[[roles.{name}.egress]]\naddresses = [\"{v4}\", \"{v6}\"]\n")
    };
    let identity = |name, selector: String| {
        format!(
            "[identities.{name}]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
             purpose = \"test\"\nenvironment = \"test\"\nroles = [\"{name}\"]\n\
             match = [{{ {selector} }}]\n"
        )
    };
    [
        role("left", ALLOWED_ZONE),
        role("right", DENIED_ZONE),
        "[roles.tool]\n".to_owned(),
        identity("left", "cgroup = \"/left\"".to_owned()),
        identity("right", "cgroup = \"/right\"".to_owned()),
        identity("tool", format!("executable = {tool:?}")),
    ]
    .concat()
}

const LEFT: usize = 1;
const RIGHT: usize = 2;
const TOOL: usize = 3;

/// Asserts that each way led to one answer alone, and says how often each answer was given.
fn count(child: Child, here: usize, there: usize) -> [u64; 8] {
    let output = child.wait_with_output().expect("a crowd ends");
    let tallies: Vec<Tally> =
        serde_json::from_slice(&output.stdout).expect("a crowd prints tallies");
    assert_eq!(tallies.len(), 11, "all ways and the way back: {tallies:?}");
    let mut sums = [0; 8];
    for tally in &tallies {
        let expected = if tally.is_there { there } else { here };
        let mut answers = [0; 8];
        answers[expected] = tally.asked();
        assert_eq!(tally.answers, answers, "{} of {tallies:?}", tally.way);
        assert!(tally.asked() >= ROUNDS, "{tallies:?}");
        sums[expected] += u64::from(tally.asked());
    }
    sums
}

#[test]
fn whoever_comes_about_in_whatever_way_is_judged_as_the_precedence_says() {
    let scene = Scene::new();
    let [left, right]: [Cgroup; 2] = ["left", "right"].map(|name| scene.sandbox.cgroup(name));
    let files = scene.sandbox.files();
    fs::set_permissions(files, fs::Permissions::from_mode(0o755)).expect("open the directory");
    let tool = files.join("tool");
    fs::copy(probe_path(), &tool).expect("copy an executable");
    let mut daemon = Daemon::start(&scene.sandbox, &policy(&tool));
    let targets =
        [Zone::Denied, Zone::Allowed].map(|zone| SocketAddr::new(scene.target(zone), PORT));
    let start = |program: &Path| {
        let mut command = Command::new(program);
        command
            .args(["crowd", &ROUNDS.to_string()])
            .args([left.path(), right.path()])
            .args(targets.map(|target| target.to_string()));
        scene.sandbox.agent(&left).spawn(command)
    };
    // Side by side: for one crowd the cgroup decides, for the other the executable.
    let crowds = [start(&probe_path()), start(&tool)];
    let [by_cgroup, by_executable] = crowds;
    let by_cgroup = count(by_cgroup, LEFT, RIGHT);
    let by_executable = count(by_executable, TOOL, TOOL);
    let expected = [
        ("left", by_cgroup[LEFT], "cgroup"),
        ("right", by_cgroup[RIGHT], "cgroup"),
        ("tool", 2 * by_executable[TOOL], "executable"),
    ];
    for (identity, refusals, _) in expected {
        let counted = daemon.counter(identity, "counters", "denied");
        assert_eq!(counted, refusals, "refusals of {identity}");
    }

    // Each refusal is told of as the one's who was refused.
    daemon.stop();
    let events = daemon.events().read();
    let refusals = events
        .iter()
        .filter(|event| audit::own(event, "verdict") == "deny");
    for event in refusals.clone() {
        let known = expected.map(|(identity, _, by)| {
            audit::identity(event) == identity && *audit::own(event, "by") == by
        });
        assert!(known.contains(&true), "{event}");
    }
    let lost = events.iter().filter(|event| event["class_uid"] == 6008);
    let sum = |counts: &mut dyn Iterator<Item = &serde_json::Value>| -> u64 {
        counts
            .map(|event| event["count"].as_u64().expect("it has a count"))
            .sum()
    };
    let mut total = sum(&mut lost.clone());
    for (identity, expected, _) in expected {
        let mut own = refusals
            .clone()
            .filter(|event| audit::identity(event) == identity);
        let told = sum(&mut own);
        assert!(
            told > 0 && told <= expected,
            "{told} of {expected} of {identity}"
        );
        total += told;
    }
    assert_eq!(
        total,
        expected
            .iter()
            .map(|(_, refusals, _)| refusals)
            .sum::<u64>()
    );
}
