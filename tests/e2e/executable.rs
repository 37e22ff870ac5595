//! Whom an executable makes of a process: decided in the kernel, as it starts.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use agentguard_tests::{
    agent::probe_path, audit, cgroup::Cgroup, daemon::Daemon, judge::Judge, network::ALLOWED_ZONE,
    network::Zone, sandbox::Sandbox, world::PORT,
};

use crate::scene::{ENFORCED, Scene};

/// Nobody in particular: what no selector matches may do everything.
const FREE: [bool; 2] = [false, false];

/// A sandbox, a cgroup that nobody's is, and a directory of executables.
struct Bench {
    scene: Scene,
    elsewhere: Cgroup,
    programs: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let scene = Scene::new();
        let elsewhere = scene.sandbox.cgroup("elsewhere");
        let programs = scene.sandbox.open_directory("programs");
        Self {
            scene,
            elsewhere,
            programs,
        }
    }

    fn sandbox(&self) -> &Sandbox {
        &self.scene.sandbox
    }

    /// A copy of `original` with a name of its own.
    fn copy(&self, original: &Path, name: &str) -> PathBuf {
        let copy = self.programs.join(name);
        fs::copy(original, &copy).expect("copy an executable");
        copy
    }

    /// A shell that is the agent.
    fn agent(&self) -> PathBuf {
        let shell = fs::canonicalize("/bin/sh").expect("there is a shell");
        self.copy(&shell, "agent")
    }

    /// A policy whose identity `bot` is chosen by these lines of a selector.
    fn policy(&self, selector: &str) -> String {
        let [v4, v6] = ALLOWED_ZONE;
        format!(
            "[roles.r]\n[[roles.r.egress]]\naddresses = [\"{v4}\", \"{v6}\"]\n\
             [identities.bot]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
             purpose = \"test\"\nenvironment = \"test\"\nroles = [\"r\"]\n\
             [[identities.bot.match]]\n{selector}\n"
        )
    }

    /// What a judge that `command` starts is refused.
    fn refusals(&self, command: Command) -> [bool; 2] {
        let mut judge = Judge::from(self.sandbox().agent(&self.elsewhere).spawn(command));
        self.scene.refusals(&mut judge)
    }
}

/// `shell -c script probe`: the script finds the probe as `$0`.
fn script(shell: &Path, script: &str) -> Command {
    let mut command = Command::new(shell);
    command.arg("-c").arg(script).arg(probe_path());
    command
}

fn judge_by(probe: &Path) -> Command {
    let mut command = Command::new(probe);
    command.arg("judge");
    command
}

#[test]
fn an_executable_is_the_agent_and_so_is_what_it_starts() {
    let bench = Bench::new();
    let agent = bench.agent();
    let shell = fs::canonicalize("/bin/sh").expect("there is a shell");
    let policy = bench.policy(&format!("executable = {agent:?}"));
    let _daemon = Daemon::start(bench.sandbox(), &policy);

    assert_eq!(bench.refusals(judge_by(&probe_path())), FREE);
    assert_eq!(bench.refusals(script(&shell, "exec \"$0\" judge")), FREE);
    for (how, line) in [
        ("by exec", "exec \"$0\" judge"),
        ("by fork", "\"$0\" judge; true"),
        ("twice removed", "( ( \"$0\" judge; true ); true ); true"),
        (
            "through another shell",
            "sh -c '\"$0\" judge; true' \"$0\"; true",
        ),
    ] {
        assert_eq!(bench.refusals(script(&agent, line)), ENFORCED, "{how}");
    }
    // A person's shell that starts the agent stays the person's.
    let line = format!("{agent:?} -c true; exec \"$0\" judge");
    assert_eq!(bench.refusals(script(&shell, &line)), FREE);
}

#[test]
fn an_identity_that_is_not_inherited_ends_with_its_executable() {
    let bench = Bench::new();
    let agent = bench.agent();
    let probe = bench.copy(&probe_path(), "agent-probe");
    let selector = format!("executable = [{agent:?}, {probe:?}]\ninherit = false");
    let _daemon = Daemon::start(bench.sandbox(), &bench.policy(&selector));
    assert_eq!(bench.refusals(judge_by(&probe)), ENFORCED);
    assert_eq!(bench.refusals(script(&agent, "\"$0\" judge; true")), FREE);
}

#[test]
fn a_glob_means_paths_and_a_link_means_its_target() {
    let bench = Bench::new();
    let probe = bench.copy(&probe_path(), "agent-7");
    let other = bench.copy(&probe_path(), "tool");
    let link = bench.programs.join("link");
    symlink(&probe, &link).expect("make a link");
    let glob = bench.programs.join("agent-*");
    let policy = bench.policy(&format!("executable = {glob:?}"));
    let _daemon = Daemon::start(bench.sandbox(), &policy);
    assert_eq!(bench.refusals(judge_by(&probe)), ENFORCED);
    assert_eq!(bench.refusals(judge_by(&link)), ENFORCED);
    assert_eq!(bench.refusals(judge_by(&other)), FREE);
}

#[test]
fn a_script_is_known_by_its_own_path_however_it_is_named() {
    let bench = Bench::new();
    let path = bench.programs.join("agent.sh");
    fs::write(&path, "#!/bin/sh\nexec \"$1\" judge\n").expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    let policy = bench.policy(&format!("executable = {path:?}"));
    let _daemon = Daemon::start(bench.sandbox(), &policy);
    let start = |name: &Path, directory: &Path| {
        let mut command = Command::new(name);
        command.arg(probe_path()).current_dir(directory);
        command
    };
    assert_eq!(bench.refusals(start(&path, Path::new("/"))), ENFORCED);
    let below = Path::new("./agent.sh");
    assert_eq!(bench.refusals(start(below, &bench.programs)), ENFORCED);
    let below = Path::new("./programs/agent.sh");
    let above = bench.programs.parent().expect("it is below a directory");
    assert_eq!(bench.refusals(start(below, above)), ENFORCED);
    // Its interpreter alone is nobody.
    let shell = Path::new("/bin/sh");
    assert_eq!(bench.refusals(script(shell, "exec \"$0\" judge")), FREE);
}

#[test]
fn what_runs_already_is_labelled_and_labels_outlive_the_daemon_and_follow_the_policy() {
    let bench = Bench::new();
    let agent = bench.agent();
    let policy = bench.policy(&format!("executable = {agent:?}"));
    let place = bench.sandbox().agent(&bench.elsewhere);
    let mut before = Judge::from(place.spawn(script(&agent, "\"$0\" judge; true")));
    let mut stranger = Judge::from(place.spawn(judge_by(&probe_path())));
    assert_eq!(bench.scene.refusals(&mut before), FREE);

    let mut daemon = Daemon::start(bench.sandbox(), &policy);
    assert_eq!(bench.scene.refusals(&mut before), ENFORCED, "it ran before");
    assert_eq!(bench.scene.refusals(&mut stranger), FREE);

    daemon.kill();
    let mut orphan = Judge::from(place.spawn(script(&agent, "\"$0\" judge; true")));
    assert_eq!(bench.scene.refusals(&mut before), ENFORCED);
    assert_eq!(
        bench.scene.refusals(&mut orphan),
        ENFORCED,
        "the kernel labels without a daemon"
    );
    daemon.restart();
    assert_eq!(bench.scene.refusals(&mut before), ENFORCED);
    assert_eq!(bench.scene.refusals(&mut orphan), ENFORCED);

    // Now the probe is the agent, and the shell is nobody.
    daemon.reload(&bench.policy(&format!("executable = {:?}", probe_path())));
    assert_eq!(bench.scene.refusals(&mut stranger), ENFORCED);
    daemon.reload(&bench.policy("executable = \"/nowhere\""));
    for judge in [&mut before, &mut orphan, &mut stranger] {
        assert_eq!(bench.scene.refusals(judge), FREE);
    }
    daemon.reload(&policy);
    assert_eq!(bench.scene.refusals(&mut before), ENFORCED);
    assert_eq!(bench.scene.refusals(&mut stranger), FREE);
}

#[test]
fn a_user_cannot_put_on_an_identity_with_mounts_of_his_own() {
    let bench = Bench::new();
    let trusted = bench.copy(&probe_path(), "trusted");
    let policy = bench
        .policy(&format!("executable = {trusted:?}"))
        .replace("addresses =", "ports = [\"1/tcp\"]\naddresses =");
    let _daemon = Daemon::start(bench.sandbox(), &policy);
    // The identity may reach nothing: who takes it for himself is refused both.
    assert_eq!(bench.refusals(judge_by(&trusted)), [true, true]);
    let evil = bench.copy(&probe_path(), "evil");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg(format!(
        "mount --bind {evil:?} {trusted:?} && exec {trusted:?} judge"
    ));
    assert_eq!(bench.refusals(command), FREE);
}

#[test]
fn an_executable_on_another_file_system_of_the_host_is_the_hosts() {
    let bench = Bench::new();
    let mount = bench.programs.join("mount");
    fs::create_dir(&mount).expect("make a directory");
    let agent = mount.join("agent-probe");
    let policy = bench.policy(&format!("executable = {agent:?}"));
    let _daemon = Daemon::start(bench.sandbox(), &policy);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]).arg(format!(
        "mount -t tmpfs tmpfs {mount:?} && cp \"$0\" {agent:?} && exec {agent:?} judge"
    ));
    command.arg(probe_path());
    assert_eq!(bench.refusals(command), ENFORCED);
}

#[test]
fn conditions_in_one_table_must_all_hold() {
    let bench = Bench::new();
    let probe = bench.copy(&probe_path(), "agent-probe");
    for (more, expected) in [
        ("user = 0", ENFORCED),
        ("user = 4711", FREE),
        ("group = 0", ENFORCED),
        ("cgroup = \"/elsewhere\"", ENFORCED),
        ("cgroup = \"/bot\"", FREE),
    ] {
        let policy = bench.policy(&format!("executable = {probe:?}\n{more}"));
        let mut daemon = Daemon::start(bench.sandbox(), &policy);
        assert_eq!(bench.refusals(judge_by(&probe)), expected, "{more}");
        daemon.stop();
    }
}

#[test]
fn a_record_tells_what_ran_and_who_started_it_though_it_is_gone() {
    let bench = Bench::new();
    let agent = bench.agent();
    let policy = bench.policy(&format!("executable = {agent:?}"));
    let daemon = Daemon::start(bench.sandbox(), &policy);
    let target = SocketAddr::new(bench.scene.target(Zone::Denied), PORT);
    let place = bench.sandbox().agent(&bench.elsewhere);
    let mut judge = Judge::from(place.spawn(script(&agent, "\"$0\" judge; true")));
    assert_eq!(judge.ask([target]), [true]);
    drop(judge);
    let event = daemon.events().wait_for("the refusal", |event| {
        audit::identity(event) == "bot" && audit::own(event, "verdict") == "deny"
    });
    let path = |path: &Path| path.to_str().expect("paths of tests are text").to_owned();
    assert_eq!(
        event["actor"]["process"]["file"]["path"],
        path(&probe_path())
    );
    assert_eq!(*audit::own(&event, "by"), "executable");
    let ancestors = audit::own(&event, "ancestors");
    let parent = ancestors[0].as_str().expect("it has a parent");
    assert!(parent.starts_with(&path(&agent)), "{ancestors}");
}

#[test]
fn a_hundred_thousand_forks_are_each_judged_as_who_they_are() {
    const FORKS: u32 = 50_000;
    let bench = Bench::new();
    let agent = bench.copy(&probe_path(), "agent-probe");
    let policy = bench.policy(&format!("executable = {agent:?}"));
    let mut daemon = Daemon::start(bench.sandbox(), &policy);
    let target = SocketAddr::new(bench.scene.target(Zone::Denied), PORT);
    let place = bench.sandbox().agent(&bench.elsewhere);
    // Agents and strangers fork side by side in one cgroup.
    let storms: Vec<_> = [&agent, &probe_path()]
        .into_iter()
        .map(|program| {
            let mut command = Command::new(program);
            command.args(["storm", &FORKS.to_string(), &target.to_string()]);
            place.spawn(command)
        })
        .collect();
    let refused: Vec<u32> = storms
        .into_iter()
        .map(|storm| {
            let output = storm.wait_with_output().expect("a storm ends");
            let text = String::from_utf8(output.stdout).expect("it prints a number");
            text.trim().parse().expect("it prints a number")
        })
        .collect();
    assert_eq!(refused, [FORKS, 0]);
    assert_eq!(
        daemon.counter("bot", "counters", "denied"),
        u64::from(FORKS)
    );
    // Each refusal is told of as the agent's, and no other.
    daemon.stop();
    let told: u64 = daemon
        .events()
        .read()
        .iter()
        .filter(|event| audit::own(event, "verdict") == "deny")
        .map(|event| {
            assert_eq!(audit::identity(event), "bot", "{event}");
            assert_eq!(*audit::own(event, "by"), "executable", "{event}");
            event["count"].as_u64().expect("every record has a count")
        })
        .sum();
    let lost: u64 = daemon
        .events()
        .read()
        .iter()
        .filter(|event| event["class_uid"] == 6008)
        .map(|event| event["count"].as_u64().expect("a loss has a count"))
        .sum();
    assert_eq!(told + lost, u64::from(FORKS));
}
