//! Runs the main job for real: a daemon, a policy, programs of several identities, and what became
//! of their connections.
//!
//! All of it lives in a private mount namespace, a cgroup and network namespaces of its own, so that
//! the host stays as it was.

pub(crate) mod program;
mod table;
mod world;

use std::{path::Path, process::Command, thread, time::Duration};

use anyhow::{Result, bail};
use nix::unistd::Uid;

use self::{program::Program, table::Table};
use crate::{
    build, command,
    daemon::{Daemon, Stage},
    interrupt,
    sandbox::{self, CgroupTree, Network},
    setup, workspace,
};

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
    interrupt::watch()?;
    let played = play(&agentguard);
    if interrupt::is_wanted() {
        println!("demo: interrupted, and cleaned up");
        return Ok(());
    }
    played
}

fn play(agentguard: &Path) -> Result<()> {
    // Order matters: what is declared last is taken down first.
    let network = Network::new()?;
    let cgroups = CgroupTree::new("demo")?;
    let stage = Stage::set(
        &workspace::target().join("demo"),
        cgroups.top(),
        &workspace::root().join("demo"),
    )?;
    world::start(&network)?;

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
            interrupt::check()?;
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
