//! Conditions: whom they make a process, which rules they bring, and what records tell of them.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use agentguard_tests::{
    agent::probe_path, audit, cgroup::Cgroup, daemon::Daemon, judge::Judge, network::ALLOWED_ZONE,
    network::Zone, probe::NOBODY, world::PORT,
};
use serde_json::{Value, json};

use crate::scene::{ENFORCED, Scene};

const FREE: [bool; 2] = [false, false];

/// What may reach the allowed zone only where the rule applies.
const NOTHING: [bool; 2] = [true, true];

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

    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.programs.join(name);
        fs::copy(probe_path(), &copy).expect("copy the probe");
        copy
    }

    fn start(&self, command: Command) -> Judge {
        Judge::from(self.scene.sandbox.agent(&self.elsewhere).spawn(command))
    }

    fn refusals(&self, command: Command) -> [bool; 2] {
        self.scene.refusals(&mut self.start(command))
    }

    /// The record of a refusal of what `command` starts.
    fn refusal(&self, daemon: &Daemon, command: Command) -> Value {
        let mut judge = self.start(command);
        let target = self.scene.target(Zone::Denied);
        assert_eq!(judge.ask([SocketAddr::new(target, PORT)]), [true]);
        daemon.events().wait_for("the refusal", |event| {
            event["dst_endpoint"]["ip"] == target.to_string()
        })
    }
}

/// An identity `bot` with these keys, whose rule for the allowed zone has this `requires`; everybody
/// else may do nothing if `others` is `deny`.
fn policy(others: &str, keys: &str, rule: &str) -> String {
    let [v4, v6] = ALLOWED_ZONE;
    format!(
        "[defaults]\nunknown = \"{others}\"\n\
         [roles.r]\n[[roles.r.egress]]\naddresses = [\"{v4}\", \"{v6}\"]\n{rule}\n\
         [identities.bot]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"r\"]\n{keys}\n"
    )
}

fn judge(probe: &std::path::Path) -> Command {
    let mut command = Command::new(probe);
    command.arg("judge");
    command
}

/// A judge as another user and group.
fn judge_as(user: u32) -> Command {
    let mut command = Command::new("setpriv");
    let id = user.to_string();
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(probe_path())
        .arg("judge");
    command
}

/// A judge of whom the kernel knows that user 4242 logged in.
fn judge_of_login() -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo 4242 > /proc/self/loginuid && exec \"$0\" judge"])
        .arg(probe_path());
    command
}

#[test]
fn a_user_a_group_and_a_login_are_selectors_by_themselves() {
    let bench = Bench::new();
    for (selector, nobody, login, root) in [
        (format!("user = {NOBODY}"), ENFORCED, FREE, FREE),
        (format!("group = {NOBODY}"), ENFORCED, FREE, FREE),
        ("login = true".to_owned(), FREE, ENFORCED, FREE),
    ] {
        let policy = policy("allow", &format!("match = [{{ {selector} }}]"), "");
        let mut daemon = Daemon::start(&bench.scene.sandbox, &policy);
        assert_eq!(bench.refusals(judge_as(NOBODY)), nobody, "{selector}");
        assert_eq!(bench.refusals(judge_of_login()), login, "{selector}");
        assert_eq!(bench.refusals(judge(&probe_path())), root, "{selector}");
        daemon.stop();
    }
}

#[test]
fn a_hash_means_these_contents_and_no_others() {
    let bench = Bench::new();
    let probe = bench.copy("agent");
    let output = Command::new("sha256sum")
        .arg(&probe)
        .output()
        .expect("run sha256sum");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    let hash = text.split(' ').next().expect("it prints a hash");
    let keys = format!("match = [{{ executable = {probe:?}, sha256 = \"{hash}\" }}]");
    let policy = policy("allow", &keys, "");
    let daemon = Daemon::start(&bench.scene.sandbox, &policy);
    assert_eq!(bench.refusals(judge(&probe)), ENFORCED);
    let record = bench.refusal(&daemon, judge(&probe));
    let told = &record["actor"]["process"]["file"]["hashes"];
    assert_eq!(
        *told,
        json!([{"algorithm_id": 3, "algorithm": "SHA-256", "value": hash}])
    );
    // The same path with other contents, in place and as another file.
    let mut contents = fs::read(&probe).expect("read the probe");
    contents.push(0);
    fs::write(&probe, &contents).expect("change the probe");
    assert_eq!(bench.refusals(judge(&probe)), FREE, "changed in place");
    fs::remove_file(&probe).expect("remove the probe");
    bench.copy("agent");
    daemon.reload(&policy);
    assert_eq!(
        bench.refusals(judge(&probe)),
        ENFORCED,
        "its contents are back"
    );
}

#[test]
fn a_parent_is_a_condition_and_its_absence_is_told() {
    let bench = Bench::new();
    let shell = bench.programs.join("launcher");
    fs::copy(
        fs::canonicalize("/bin/sh").expect("there is a shell"),
        &shell,
    )
    .expect("copy it");
    let keys = format!(
        "match = [{{ executable = {:?} }}]\nrequires = {{ parent-executable = {shell:?} }}",
        probe_path()
    );
    let daemon = Daemon::start(&bench.scene.sandbox, &policy("deny", &keys, ""));
    let by = |shell: &str| {
        let mut command = Command::new(shell);
        command.args(["-c", "\"$0\" judge; true"]).arg(probe_path());
        command
    };
    let shell = shell.to_str().expect("paths of tests are text");
    assert_eq!(bench.refusals(by(shell)), ENFORCED);
    assert_eq!(bench.refusals(by("/bin/sh")), NOTHING);
    let record = bench.refusal(&daemon, by("/bin/sh"));
    assert_eq!(audit::identity(&record), "unknown");
    assert_eq!(
        *audit::own(&record, "unmet"),
        json!([{"of": "identity bot", "conditions": format!("parent-executable = {shell:?}")}])
    );
}

#[test]
fn a_record_says_which_condition_of_an_identity_failed() {
    let bench = Bench::new();
    let keys = format!(
        "match = [{{ cgroup = \"/elsewhere\" }}]\nrequires = {{ login = false, user = {NOBODY} }}"
    );
    let daemon = Daemon::start(&bench.scene.sandbox, &policy("deny", &keys, ""));
    assert_eq!(bench.refusals(judge_as(NOBODY)), ENFORCED);
    assert_eq!(bench.refusals(judge_of_login()), NOTHING);
    let record = bench.refusal(&daemon, judge_of_login());
    assert_eq!(audit::identity(&record), "unknown");
    assert_eq!(
        *audit::own(&record, "unmet"),
        json!([{
            "of": "identity bot",
            "conditions": format!("user = {NOBODY}, login = false")
        }])
    );
    assert_eq!(*audit::own(&record, "login_uid"), 4242);
    // Whose conditions all hold has none to tell.
    let record = bench.refusal(&daemon, judge_as(NOBODY));
    assert_eq!(audit::identity(&record), "bot");
    assert_eq!(*audit::own(&record, "unmet"), Value::Null);
}

#[test]
fn a_rule_applies_where_its_conditions_hold_and_records_say_where_not() {
    let bench = Bench::new();
    let rule = format!("requires = {{ user = {NOBODY} }}");
    let keys = "match = [{ cgroup = \"/elsewhere\" }]";
    let daemon = Daemon::start(&bench.scene.sandbox, &policy("allow", keys, &rule));
    assert_eq!(bench.refusals(judge_as(NOBODY)), ENFORCED);
    assert_eq!(bench.refusals(judge(&probe_path())), NOTHING);
    let record = bench.refusal(&daemon, judge(&probe_path()));
    assert_eq!(audit::identity(&record), "bot");
    assert_eq!(
        *audit::own(&record, "unmet"),
        json!([{"of": "rule r.egress[0]", "conditions": format!("user = {NOBODY}")}])
    );
    let record = bench.refusal(&daemon, judge_as(NOBODY));
    assert_eq!(audit::identity(&record), "bot");
    assert_eq!(*audit::own(&record, "unmet"), Value::Null);
}
