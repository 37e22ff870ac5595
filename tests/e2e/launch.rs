//! `agentguard run`: a command as an identity, for whom policy permits.

use std::{env, path::Path, process::Command};

use agentguard_tests::{
    agent::probe_path, audit, cgroup::Cgroup, daemon::Daemon, judge::Judge, network::ALLOWED_ZONE,
    probe::NOBODY,
};

use crate::scene::{ENFORCED, Scene};

fn policy(launchers: &str) -> String {
    let [v4, v6] = ALLOWED_ZONE;
    format!(
        "[roles.r]\n[[roles.r.egress]]\naddresses = [\"{v4}\", \"{v6}\"]\n\
         [identities.bot]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"r\"]\n\
         match = [{{ cgroup = \"/nowhere\" }}]\n{launchers}\n"
    )
}

/// Lets nobody start the identity.
fn launcher() -> String {
    policy(&format!(
        "[[launchers]]\nusers = [{NOBODY}]\nidentities = [\"b*\"]"
    ))
}

/// `agentguard run --identity NAME -- judge`, as a user.
fn run(scene: &Scene, daemon: &Daemon, user: u32, identity: &str) -> Command {
    let program = env::var_os("AGENTGUARD_BIN").expect("the tests are run by xtask");
    let open = |program: &Path| scene.sandbox.open_program(program);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &user.to_string(), "--regid", &user.to_string()])
        .arg("--clear-groups")
        .arg(open(Path::new(&program)))
        .args([
            "run",
            "--identity",
            identity,
            "--reason",
            "a test",
            "--config",
        ])
        .arg(daemon.settings_file())
        .arg("--")
        .arg(open(&probe_path()))
        .arg("judge");
    command
}

fn open_scene() -> (Scene, Cgroup) {
    let scene = Scene::new();
    let elsewhere = scene.sandbox.cgroup("elsewhere");
    scene.sandbox.open_files();
    (scene, elsewhere)
}

#[test]
fn a_launched_command_is_the_identity_from_its_start_over_restart_and_reload() {
    let (scene, elsewhere) = open_scene();
    let mut daemon = Daemon::start(&scene.sandbox, &launcher());
    let place = scene.sandbox.agent(&elsewhere);
    for user in [0, NOBODY] {
        let mut judge = Judge::from(place.spawn(run(&scene, &daemon, user, "bot")));
        assert_eq!(scene.refusals(&mut judge), ENFORCED, "by user {user}");
    }
    let mut judge = Judge::from(place.spawn(run(&scene, &daemon, NOBODY, "bot")));
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.reload(&launcher());
    assert_eq!(scene.refusals(&mut judge), ENFORCED, "after a reload");
    daemon.kill();
    assert_eq!(scene.refusals(&mut judge), ENFORCED, "without a daemon");
    daemon.restart();
    assert_eq!(scene.refusals(&mut judge), ENFORCED, "after a restart");
    let refusal = daemon.events().wait_for("a refusal", |event| {
        audit::identity(event) == "bot" && audit::own(event, "verdict") == "deny"
    });
    assert_eq!(*audit::own(&refusal, "by"), "launch");
    daemon.events().wait_for("the launch", |event| {
        event["class_uid"] == 3004 && event.to_string().contains("a test")
    });
}

#[test]
fn a_launch_wins_over_the_executable_and_over_what_starts_later() {
    let (scene, elsewhere) = open_scene();
    let probe = scene.sandbox.open_program(&probe_path());
    // Whoever runs the probe may reach nothing; whom it is launched as may reach the allowed zone.
    let policy = format!(
        "{}[roles.none]\n[[roles.none.egress]]\naddresses = [\"192.0.2.1/32\"]\n\
         [identities.prober]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"none\"]\n\
         match = [{{ executable = {probe:?} }}]\n",
        launcher()
    );
    let daemon = Daemon::start(&scene.sandbox, &policy);
    let place = scene.sandbox.agent(&elsewhere);
    let mut plain = Command::new(&probe);
    plain.arg("judge");
    let mut plain = Judge::from(place.spawn(plain));
    assert_eq!(scene.refusals(&mut plain), [true, true], "not launched");
    let mut launched = Judge::from(place.spawn(run(&scene, &daemon, NOBODY, "bot")));
    assert_eq!(scene.refusals(&mut launched), ENFORCED, "launched");
    daemon.reload(&policy);
    assert_eq!(scene.refusals(&mut launched), ENFORCED, "after a reload");
    let owners = daemon.cli(&["ps", "--json"]);
    let owners: serde_json::Value = serde_json::from_slice(&owners.stdout).expect("ps prints JSON");
    let owner = owners
        .as_array()
        .expect("a list")
        .iter()
        .find(|owner| owner["why"]["by"] == "launch")
        .expect("ps tells of the launch");
    assert_eq!(owner["identity"], "bot");
    assert_eq!(owner["pids"].as_array().map(Vec::len), Some(1));
}

#[test]
fn whom_no_launcher_names_gets_nothing() {
    let (scene, elsewhere) = open_scene();
    let daemon = Daemon::start(&scene.sandbox, &launcher());
    let place = scene.sandbox.agent(&elsewhere);
    for (user, identity) in [
        (NOBODY, "unknown"),
        (NOBODY - 1, "bot"),
        (0, "nobody-knows"),
    ] {
        let mut child = place.spawn(run(&scene, &daemon, user, identity));
        let status = child.wait().expect("it ends");
        let expected = if user == 0 { 64 } else { 77 };
        assert_eq!(status.code(), Some(expected), "user {user} as {identity}");
    }
}
