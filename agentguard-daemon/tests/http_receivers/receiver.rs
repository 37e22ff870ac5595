//! A receiver in a process of its own, that can be killed, begun anew, stalled and read.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// The interpreter that has what receivers import.
fn python() -> Command {
    let python = std::env::var_os("AGENTGUARD_RECEIVERS_PYTHON")
        .expect("AGENTGUARD_RECEIVERS_PYTHON is not set: run `cargo xtask test`");
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/http_receivers")
        .join(name)
}

/// Makes certificates in `directory`.
pub(crate) fn make_certificates(directory: &Path) {
    let status = python()
        .arg(script("certificates.py"))
        .arg(directory)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Writes a secret to a file that only its owner can read.
pub(crate) fn write_secret(directory: &Path, name: &str, secret: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, secret).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A running receiver.
pub(crate) struct Receiver {
    script: &'static str,
    options: Value,
    directory: TempDir,
    child: Child,
    /// What it printed once it was ready.
    pub(crate) ready: String,
}

impl Receiver {
    /// Starts `script` on a free port.
    pub(crate) fn start(script: &'static str, options: Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (child, ready) = spawn(script, "0", directory.path(), &options);
        Self {
            script,
            options,
            directory,
            child,
            ready,
        }
    }

    pub(crate) fn url(&self, scheme: &str, host: &str, path: &str) -> String {
        format!("{scheme}://{host}:{}{path}", self.ready)
    }

    /// Kills it where it stands.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port.
    pub(crate) fn restart(&mut self) {
        let (child, ready) = spawn(
            self.script,
            &self.ready,
            self.directory.path(),
            &self.options,
        );
        assert_eq!(ready, self.ready);
        self.child = child;
    }

    pub(crate) fn stall(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
    }

    pub(crate) fn resume(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// Writes a line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// What it received, in order.
    pub(crate) fn received(&self) -> Vec<Value> {
        let lines = fs::read_to_string(output(self.directory.path())).unwrap_or_default();
        let lines = lines.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}")))
            .collect()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn output(directory: &Path) -> PathBuf {
    directory.join("received")
}

fn spawn(name: &str, port: &str, directory: &Path, options: &Value) -> (Child, String) {
    let mut child = python()
        .arg(script(name))
        .arg(port)
        .arg(output(directory))
        .arg(options.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    assert!(!ready.is_empty(), "{name} did not start");
    (child, ready.trim().to_owned())
}
