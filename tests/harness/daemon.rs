//! The built `agentguard`, run in a sandbox: its settings, its life and its answers.

use std::{
    env, fs,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    agent::die_with_parent,
    audit::EventFile,
    mounts::Mounts,
    sandbox::{self, Sandbox},
    user::User,
};

/// How long the daemon may take to come up, and to end: an emulated machine needs more than a minute for
/// the verifier of Linux 6.1.
const LIFE_TIMEOUT: Duration = Duration::from_secs(300);

/// A daemon, and the files and pins that it leaves.
///
/// Dropping it kills it and ends its mount namespace. The pins are in there, so that enforcement
/// ends with it, also when a test is killed.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    files: PathBuf,
    mounts: Mounts,
    child: Option<Child>,
}

impl Daemon {
    /// Starts a daemon in `sandbox` with this policy and waits until it answers.
    ///
    /// # Panics
    ///
    /// With what the daemon said, if it does not come up.
    #[must_use]
    pub fn start(sandbox: &Sandbox, policy: &str) -> Self {
        let mut daemon = Self::prepare(sandbox, policy);
        daemon.restart();
        daemon
    }

    /// Writes settings and policy without starting anything.
    ///
    /// # Panics
    ///
    /// If they cannot be written.
    #[must_use]
    pub fn prepare(sandbox: &Sandbox, policy: &str) -> Self {
        let files = sandbox.files().join("daemon");
        for directory in ["policy.d", "bpf", "state"] {
            fs::create_dir_all(files.join(directory)).expect("make the daemon's directories");
        }
        let settings = format!(
            "cgroup-root = {cgroup_root:?}\n\
             policy-dirs = [{policy:?}]\n\
             bpffs = {bpffs:?}\n\
             state-dir = {state:?}\n\
             control-socket = {socket:?}\n\
             [sinks.log.file]\n\
             path = {events:?}\n",
            cgroup_root = sandbox.cgroups.top().path(),
            policy = files.join("policy.d"),
            bpffs = files.join("bpf"),
            state = files.join("state"),
            socket = files.join("control.sock"),
            events = files.join("events.jsonl"),
        );
        fs::write(files.join("agentguard.toml"), settings).expect("write the settings");
        let daemon = Self {
            binary: binary("AGENTGUARD_BIN"),
            files,
            mounts: Mounts::new(),
            child: None,
        };
        daemon.write_policy(policy);
        daemon
    }

    /// Takes the daemon as it is built for people, in place of the one for tests.
    ///
    /// # Panics
    ///
    /// If it was not built.
    pub fn use_release(&mut self) {
        self.binary = binary("AGENTGUARD_RELEASE_BIN");
    }

    /// The settings file.
    #[must_use]
    pub fn settings_file(&self) -> PathBuf {
        self.files.join("agentguard.toml")
    }

    /// Adds lines at the end of the settings, where tables can begin.
    ///
    /// # Panics
    ///
    /// If they cannot be written.
    pub fn add_settings(&self, lines: &str) {
        let mut file = File::options()
            .append(true)
            .open(self.settings_file())
            .expect("open the settings");
        file.write_all(lines.as_bytes())
            .expect("write the settings");
    }

    /// Starts it (again) and waits until it answers.
    ///
    /// # Panics
    ///
    /// With what the daemon said, if it does not come up.
    pub fn restart(&mut self) {
        self.launch();
        let deadline = Instant::now() + LIFE_TIMEOUT;
        // To ask before it listens would only slow it down. One that was killed has left its socket.
        let socket = self.socket();
        let listens = || UnixStream::connect(&socket).is_ok();
        while !(listens() && self.cli(&["status", "--json"]).status.success()) {
            let ended = self.child().try_wait().expect("look after the daemon");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the daemon did not come up ({ended:?}):\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it without waiting, for settings or policies with which it will not come up.
    ///
    /// # Panics
    ///
    /// If it cannot be started at all.
    pub fn launch(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.files.join("log"))
            .expect("open the log");
        let mut command = self.command(&["daemon"]);
        command.stderr(log);
        self.child = Some(command.spawn().expect("start the daemon"));
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    ///
    /// If it goes on.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIFE_TIMEOUT;
        loop {
            if let Some(status) = self.child().try_wait().expect("look after the daemon") {
                self.child = None;
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon goes on:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it as systemd does. What it pinned stays.
    ///
    /// # Panics
    ///
    /// If it does not stop, or not well.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// Kills it. What it pinned stays.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn signal(&mut self, signal: Signal) {
        let pid = i32::try_from(self.child().id()).expect("pids are small");
        kill(Pid::from_raw(pid), signal).expect("the daemon runs");
    }

    /// Memory that it has, in KiB.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn resident_kib(&mut self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(path).expect("the daemon runs");
        text.lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())
            .and_then(|kib| kib.parse().ok())
            .expect("a process has memory")
    }

    /// Its process.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn pid(&mut self) -> u32 {
        self.child().id()
    }

    /// Writes the policy; it takes effect with the next reload.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write_policy(&self, policy: &str) {
        fs::write(self.policy_file(), policy).expect("write the policy");
    }

    /// Writes a policy and puts it in force.
    ///
    /// # Panics
    ///
    /// If the daemon rejects it.
    pub fn reload(&self, policy: &str) {
        self.write_policy(policy);
        let output = self.cli(&["reload", "--wait"]);
        assert!(
            output.status.success(),
            "reload failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Writes a policy and puts it in force by the control socket, without a process for each time.
    ///
    /// # Panics
    ///
    /// If the daemon rejects it.
    pub fn swap(&self, policy: &str) {
        self.write_policy(policy);
        let mut socket = UnixStream::connect(self.socket()).expect("the daemon listens");
        socket
            .write_all(b"{\"request\":\"reload\",\"wait\":true}\n")
            .expect("the daemon reads");
        let mut answer = String::new();
        BufReader::new(socket)
            .read_line(&mut answer)
            .expect("the daemon answers");
        let response: Value = serde_json::from_str(&answer).expect("it answers in JSON");
        assert_eq!(response["response"], "reloaded", "{answer}");
    }

    /// Runs the command line with this daemon's settings.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run agentguard")
    }

    /// Runs the command line as somebody else.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn cli_as(&self, user: User, arguments: &[&str]) -> Output {
        let program = sandbox::open_program(&self.files, &self.binary);
        let mut command = self.command_of(&program, arguments);
        // SAFETY: the closure makes system calls and allocates nothing.
        unsafe { command.pre_exec(move || user.become_it()) };
        command.output().expect("run agentguard")
    }

    /// Adds a group with these members to those that the daemon and its command line see.
    ///
    /// # Panics
    ///
    /// If it cannot be mounted.
    pub fn set_group(&self, name: &str, gid: u32, members: &str) {
        let file = self.files.join("group");
        let others = fs::read_to_string("/etc/group").expect("the host has groups");
        let is_mounted = file.exists();
        fs::write(&file, format!("{others}{name}:x:{gid}:{members}\n")).expect("write the groups");
        if !is_mounted {
            self.mounts.bind(&file, Path::new("/etc/group"));
        }
    }

    /// What `status --json` says.
    ///
    /// # Panics
    ///
    /// If it fails or is not JSON.
    #[must_use]
    pub fn status(&self) -> Value {
        self.json(&["status", "--json"])
    }

    /// What a command prints as JSON.
    ///
    /// # Panics
    ///
    /// If it fails or is not JSON.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("it prints JSON")
    }

    /// A number of one identity: `group` is `counters` or `events`.
    ///
    /// # Panics
    ///
    /// If the status does not have it.
    #[must_use]
    pub fn counter(&self, identity: &str, group: &str, key: &str) -> u64 {
        let status = self.status();
        status["identities"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == identity)
            .and_then(|entry| entry[group][key].as_u64())
            .unwrap_or_else(|| panic!("no {group}.{key} of {identity} in {status}"))
    }

    /// What the status tells of one limit: `kind` is its key in policy.
    ///
    /// # Panics
    ///
    /// If the status does not have it.
    #[must_use]
    pub fn limit(&self, identity: &str, kind: &str) -> Value {
        let status = self.status();
        status["limits"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|limit| limit["identity"] == identity && limit["limit"] == kind)
            .unwrap_or_else(|| panic!("no {kind} of {identity} in {}", status["limits"]))
            .clone()
    }

    /// Flows of an identity that are open by the kernel's count.
    ///
    /// # Panics
    ///
    /// If the status does not have it.
    #[must_use]
    pub fn open_flows(&self, identity: &str) -> u64 {
        let status = self.status();
        status["identities"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == identity)
            .and_then(|entry| entry["open"].as_u64())
            .unwrap_or_else(|| panic!("no open flows of {identity} in {status}"))
    }

    /// The events it writes.
    #[must_use]
    pub fn events(&self) -> EventFile {
        EventFile::new(self.files.join("events.jsonl"))
    }

    /// The policy file.
    #[must_use]
    pub fn policy_file(&self) -> PathBuf {
        self.files.join("policy.d/test.toml")
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.files.join("control.sock")
    }

    /// The pin directory, as seen from inside its mounts.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.files.join("bpf")
    }

    /// The mounts that it sees.
    #[must_use]
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// What it said on stderr.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.files.join("log")).unwrap_or_default()
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("the daemon was started")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.binary, arguments)
    }

    fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.settings_file());
        // SAFETY: the closure makes a system call, and allocates nothing.
        unsafe { command.pre_exec(die_with_parent) };
        self.mounts.take_in(&mut command);
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only for a daemon that has ended already.
            drop(child.kill());
            drop(child.wait());
        }
        if thread::panicking() {
            #[expect(
                clippy::print_stderr,
                reason = "it is shown with the failure of the test"
            )]
            {
                eprintln!("the daemon said:\n{}", self.log());
            }
        }
    }
}

/// The daemon under test, which `variable` names.
fn binary(variable: &str) -> PathBuf {
    let path = env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{variable} is not set: run `cargo xtask test`, which builds agentguard")
    });
    assert!(path.exists(), "{variable}={path:?} is not there");
    path
}
