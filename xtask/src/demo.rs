//! Runs the main job for real: a daemon, a policy, programs of several identities, and what became
//! of their connections.
//!
//! All of it lives in a private mount namespace, a cgroup and network namespaces of its own, so that
//! the host stays as it was.

pub(crate) mod program;
mod sandbox;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::{Pid, Uid},
};

use self::{
    program::Program,
    sandbox::{CgroupTree, Network},
    table::Table,
};
use crate::{build, command, setup, workspace};

/// Set once the user wants to stop.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A small program and where it lives.
struct Cast {
    name: &'static str,
    /// Its cgroup below the demo's own, named as systemd would.
    cgroup: &'static str,
    /// What it tries, in words.
    story: &'static str,
    attempts: &'static [&'static str],
}

const CAST: [Cast; 5] = [
    Cast {
        name: "invoice-sync",
        cgroup: "agents.slice/invoice-sync@eu.service",
        story: "a sync job that does what it is for",
        attempts: &[
            "tcp:10.20.0.10:443",
            "tcp:10.20.0.11:443",
            "tcp:[fd00:20::10]:443",
        ],
    },
    Cast {
        name: "research",
        cgroup: "agents.slice/research-agent.service",
        story: "an agent that strays outside its zone",
        attempts: &[
            "tcp:10.30.0.5:443",
            "tcp:10.20.0.10:443",
            "tcp:10.30.0.5:22",
            "tcp:169.254.169.254:80",
        ],
    },
    Cast {
        name: "curious",
        cgroup: "agents.slice/curious-agent.service",
        story: "an agent that tries IPv6, UDP and a raw socket",
        attempts: &[
            "tcp:[fd00:20::10]:443",
            "tcp:[::ffff:10.20.0.10]:443",
            "udp:10.20.0.10:53",
            "udp:[fd00:20::10]:443",
            "raw:10.20.0.10",
        ],
    },
    Cast {
        name: "stranger",
        cgroup: "agents.slice/nobody-knows.service",
        story: "a program among the agents that no policy names",
        attempts: &["tcp:10.30.0.5:443"],
    },
    Cast {
        name: "ssh",
        cgroup: "user.slice/user-1000.slice/session-3.scope",
        story: "a person at a terminal",
        attempts: &["tcp:10.30.0.5:22", "udp:10.20.0.10:53"],
    },
];

/// Builds what is missing and plays the demo.
pub(crate) fn run() -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("the demo needs root: it makes cgroups and namespaces and loads kernel programs");
    }
    setup::namespace_tools()?;
    let agentguard = build::run(&build::Options::default())?;
    sandbox::enter_private_mounts()?;
    watch_signals()?;
    let played = play(&agentguard);
    if INTERRUPTED.load(Ordering::Relaxed) {
        println!("demo: interrupted, and cleaned up");
        return Ok(());
    }
    played
}

fn play(agentguard: &Path) -> Result<()> {
    // Order matters: what is declared last is taken down first.
    let network = Network::new()?;
    let cgroups = CgroupTree::new()?;
    let stage = Stage::set(&cgroups)?;
    sandbox::start_world(&network)?;

    let mut programs = Vec::new();
    for cast in &CAST {
        let cgroup = cgroups.make(cast.cgroup)?;
        programs.push(Program::start(
            cast.name,
            &cgroup,
            &network.client,
            cast.attempts,
        )?);
    }
    println!("\n  agentguard daemon --config {}", stage.config.display());
    let daemon = Daemon::start(agentguard, &stage)?;
    let mut table = Table::new(&stage.events);
    table.wait_for_policy(|| daemon.check())?;

    println!("\n  agentguard ps");
    command::run(
        Command::new(agentguard)
            .args(["ps", "--config"])
            .arg(&stage.config),
    )?;

    table.print_head();
    for (cast, program) in CAST.iter().zip(&mut programs) {
        table.print_story(cast.story);
        program.go()?;
        while !program.is_done()? {
            check_interrupt()?;
            table.print_news()?;
            thread::sleep(Duration::from_millis(20));
        }
        // The last records are still on their way.
        thread::sleep(Duration::from_millis(250));
        table.print_news()?;
    }
    drop(daemon);
    table.print_news()?;
    table.print_summary();
    println!(
        "\nEvents (OCSF, one JSON object a line): {}",
        stage.events.display()
    );
    Ok(())
}

/// Files of one demo.
struct Stage {
    config: PathBuf,
    events: PathBuf,
    directory: PathBuf,
}

impl Stage {
    /// Writes settings that keep everything below one directory.
    fn set(cgroups: &CgroupTree) -> Result<Self> {
        let directory = workspace::target().join("demo");
        workspace::clear(&directory)?;
        fs::create_dir(directory.join("bpf"))?;
        let stage = Self {
            config: directory.join("agentguard.toml"),
            events: directory.join("events.jsonl"),
            directory,
        };
        let settings = format!(
            "cgroup-root = {cgroup_root:?}\n\
             policy-dirs = [{policy:?}]\n\
             bpffs = {bpffs:?}\n\
             state-dir = {state:?}\n\
             control-socket = {socket:?}\n\
             [sinks.file]\n\
             path = {events:?}\n",
            cgroup_root = cgroups.top(),
            policy = workspace::root().join("demo"),
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
struct Daemon<'a> {
    child: std::cell::RefCell<Child>,
    agentguard: &'a Path,
    stage: &'a Stage,
}

impl<'a> Daemon<'a> {
    fn start(agentguard: &'a Path, stage: &'a Stage) -> Result<Self> {
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

    /// An error if it has ended or the user wants to.
    fn check(&self) -> Result<()> {
        check_interrupt()?;
        if let Some(status) = self.child.borrow_mut().try_wait()? {
            let log = fs::read_to_string(self.stage.directory.join("daemon.log"))?;
            bail!("the daemon ended ({status}):\n{log}");
        }
        Ok(())
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
        let mut detach = Command::new(self.agentguard);
        detach.args(["detach", "--config"]).arg(&self.stage.config);
        if let Err(error) = command::output(&mut detach) {
            eprintln!("demo: {error:#}");
        }
    }
}

/// Notes SIGINT and SIGTERM instead of dying of them, so that everything is taken down in order.
fn watch_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Threads to come inherit the mask.
    signals.thread_block().context("cannot block signals")?;
    thread::spawn(move || {
        if signals.wait().is_ok() {
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
