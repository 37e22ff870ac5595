//! A receiver as a process, that is killed, started again and stalled.

use std::{
    env,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longest that a receiver may take to start, or to take in what was sent: it is not what is tested.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The root directory that `cargo xtask test` has put the receivers in.
pub(crate) fn root() -> PathBuf {
    env::var_os("AGENTGUARD_STREAM_RECEIVERS")
        .expect("AGENTGUARD_STREAM_RECEIVERS is not set: run `cargo xtask test`")
        .into()
}

/// A program that runs, or is killed. It ends with this, and with the thread that started it.
pub(crate) struct Program {
    words: Vec<OsString>,
    libraries: OsString,
    log: PathBuf,
    is_ready: Box<dyn Fn() -> bool>,
    child: Option<Child>,
    /// How often it was killed.
    pub(crate) kills: usize,
}

impl Program {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(
        words: Vec<OsString>,
        log: &Path,
        is_ready: impl Fn() -> bool + 'static,
    ) -> Self {
        let root = root();
        // Some packages of Debian 12 have theirs in /lib, which is the same only once they are installed.
        let libraries = [
            "usr/lib/x86_64-linux-gnu",
            "lib/x86_64-linux-gnu",
            "usr/lib/syslog-ng",
            "lib",
        ];
        let mut program = Self {
            words,
            libraries: env::join_paths(libraries.map(|it| root.join(it))).unwrap(),
            log: log.to_owned(),
            is_ready: Box::new(is_ready),
            child: None,
            kills: 0,
        };
        program.restart();
        program
    }

    /// Starts it after it was killed.
    pub(crate) fn restart(&mut self) {
        let log = File::options()
            .append(true)
            .create(true)
            .open(&self.log)
            .unwrap();
        let child = Command::new("setpriv")
            .arg("--pdeathsig=KILL")
            .args(&self.words)
            .env("LD_LIBRARY_PATH", &self.libraries)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while !(self.is_ready)() {
            let child = self.child.as_mut().unwrap();
            let ended = child.try_wait().unwrap();
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(ended.is_none(), "{:?} ended: {log}", self.words);
            assert!(
                started.elapsed() < PATIENCE,
                "{:?} is not ready: {log}",
                self.words
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it without a chance to put anything in order.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
            self.kills += 1;
        }
    }

    pub(crate) fn stall(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// What it has printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
