//! A daemon of our own: its settings, its files and its life.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{command, demo::program, interrupt, workspace};

/// Files of one daemon.
pub(crate) struct Stage {
    pub(crate) config: PathBuf,
    pub(crate) events: PathBuf,
    directory: PathBuf,
}

impl Stage {
    /// Clears `directory` and writes settings that keep everything below it.
    pub(crate) fn set(directory: &Path, cgroup_root: &Path, policy: &Path) -> Result<Self> {
        workspace::clear(directory)?;
        fs::create_dir(directory.join("bpf"))?;
        let stage = Self {
            config: directory.join("agentguard.toml"),
            events: directory.join("events.jsonl"),
            directory: directory.to_owned(),
        };
        let settings = format!(
            "cgroup-root = {cgroup_root:?}\n\
             policy-dirs = [{policy:?}]\n\
             bpffs = {bpffs:?}\n\
             state-dir = {state:?}\n\
             control-socket = {socket:?}\n\
             [sinks.log.file]\n\
             path = {events:?}\n",
            bpffs = stage.directory.join("bpf"),
            state = stage.directory.join("state"),
            socket = stage.directory.join("control.sock"),
            events = stage.events,
        );
        fs::write(&stage.config, settings).context("cannot write the settings")?;
        Ok(stage)
    }
}

/// The running daemon; dropping it ends it and its enforcement.
pub(crate) struct Daemon<'a> {
    child: RefCell<Child>,
    agentguard: &'a Path,
    stage: &'a Stage,
}

impl<'a> Daemon<'a> {
    pub(crate) fn start(agentguard: &'a Path, stage: &'a Stage) -> Result<Self> {
        let log = stage.directory.join("daemon.log");
        let file = fs::File::create(&log)?;
        let child = program::dependent(agentguard)?
            .args(["daemon", "--config"])
            .arg(&stage.config)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot start the daemon")?;
        Ok(Self {
            child: child.into(),
            agentguard,
            stage,
        })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.borrow().id()
    }

    /// A command of its command line.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.agentguard);
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.stage.config);
        command
    }

    /// An error if it has ended or the user wants to.
    pub(crate) fn check(&self) -> Result<()> {
        interrupt::check()?;
        if let Some(status) = self.child.borrow_mut().try_wait()? {
            let log = fs::read_to_string(self.stage.directory.join("daemon.log"))?;
            bail!("the daemon ended ({status}):\n{log}");
        }
        Ok(())
    }

    /// Waits until it answers.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.check()?;
            let asked = self.cli(&["status", "--json"]).output();
            if asked.is_ok_and(|output| output.status.success()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the daemon did not come up");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let pid = Pid::from_raw(child.id().cast_signed());
        let deadline = Instant::now() + Duration::from_secs(5);
        if kill(pid, Signal::SIGTERM).is_ok() {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
        }
        // Either fails only if the daemon is gone already, which is what is wanted.
        drop(child.kill());
        drop(child.wait());
        let mut detach = self.cli(&["detach"]);
        if let Err(error) = command::output(&mut detach) {
            eprintln!("cannot detach: {error:#}");
        }
    }
}
