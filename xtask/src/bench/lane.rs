//! A variant at its place: what guards it, its cgroup, its network and its worker.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};

use super::{measure::Measure, noop, rules};
use crate::{
    command,
    daemon::{Daemon, Stage},
    sandbox::{CgroupTree, Network},
    workspace,
};

/// What stands between a worker and its peers, with so many addresses allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Bare,
    Noop,
    Nftables(u32),
    Agentguard(u32),
    /// With one address and limits.
    Limited,
    /// With one address and, beside the worker, somebody who floods.
    Flooded,
}

impl Variant {
    pub(super) fn name(self) -> String {
        match self {
            Self::Bare => "bare".to_owned(),
            Self::Noop => "no-op".to_owned(),
            Self::Nftables(addresses) => format!("nft-{addresses}"),
            Self::Agentguard(addresses) => format!("agentguard-{addresses}"),
            Self::Limited => "agentguard-limited".to_owned(),
            Self::Flooded => "agentguard-flooded".to_owned(),
        }
    }

    const fn addresses(self) -> u32 {
        match self {
            Self::Bare | Self::Noop => rules::MOST_ADDRESSES,
            Self::Nftables(addresses) | Self::Agentguard(addresses) => addresses,
            Self::Limited | Self::Flooded => 1,
        }
    }
}

/// The files that a lane needs before it is built.
pub(super) struct Ground {
    pub(super) variant: Variant,
    network: Network,
    top: PathBuf,
    cgroup: PathBuf,
    /// Of agentguard only.
    pub(super) stage: Option<Stage>,
}

impl Ground {
    pub(super) fn prepare(variant: Variant, cgroups: &CgroupTree) -> Result<Self> {
        let name = variant.name();
        let cgroup = cgroups.make(&format!("{name}/worker"))?;
        let top = cgroups.top().join(&name);
        let stage = match variant {
            Variant::Agentguard(_) | Variant::Limited | Variant::Flooded => {
                let files = workspace::target().join("bench").join(&name);
                let stage = Stage::set(&files, &top, &files.join("policy.d"))?;
                let mut policy = rules::policy(variant.addresses(), 1);
                match variant {
                    Variant::Limited => policy.push_str(rules::LIMITS),
                    Variant::Flooded => {
                        cgroups.make(&format!("{name}/flood"))?;
                        policy.push_str(rules::FLOOD);
                    }
                    Variant::Bare
                    | Variant::Noop
                    | Variant::Nftables(_)
                    | Variant::Agentguard(_) => {}
                }
                write_policy(&files, &policy)?;
                Some(stage)
            }
            Variant::Bare | Variant::Noop | Variant::Nftables(_) => None,
        };
        Ok(Self {
            variant,
            network: Network::new()?,
            top,
            cgroup,
            stage,
        })
    }

    /// This binary as a worker in the cgroup of this name.
    pub(super) fn worker(&self, cgroup: &str) -> Result<Command> {
        let mut worker = Command::new(std::env::current_exe()?);
        worker
            .args(["bench-worker", "--cgroup"])
            .arg(self.top.join(cgroup))
            .arg("--network")
            .arg(&self.network.client)
            .args(["--addresses", &self.variant.addresses().to_string()]);
        Ok(worker)
    }
}

/// Writes the one policy file below `files`.
pub(super) fn write_policy(files: &Path, policy: &str) -> Result<()> {
    let directory = files.join("policy.d");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("bench.toml"), policy).context("cannot write the policy")
}

/// What makes the variant what it is; dropping it ends that.
enum Guard<'a> {
    Nothing,
    Links { _links: Vec<OwnedFd> },
    Daemon(Daemon<'a>),
}

pub(super) struct Lane<'a> {
    pub(super) variant: Variant,
    guard: Guard<'a>,
    worker: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl<'a> Lane<'a> {
    pub(super) fn build(ground: &'a Ground, agentguard: &'a Path) -> Result<Self> {
        serve(&ground.network)?;
        let guard = match (ground.variant, &ground.stage) {
            (Variant::Noop, _) => Guard::Links {
                _links: noop::attach(&ground.top)?,
            },
            (Variant::Nftables(addresses), _) => {
                load_ruleset(ground, addresses)?;
                Guard::Nothing
            }
            (Variant::Agentguard(_) | Variant::Limited | Variant::Flooded, Some(stage)) => {
                let daemon = Daemon::start(agentguard, stage)?;
                daemon.wait_ready()?;
                Guard::Daemon(daemon)
            }
            (Variant::Bare | Variant::Agentguard(_) | Variant::Limited | Variant::Flooded, _) => {
                Guard::Nothing
            }
        };
        let mut worker = ground.worker("worker")?;
        worker.stdin(Stdio::piped()).stdout(Stdio::piped());
        if matches!(
            ground.variant,
            Variant::Nftables(_) | Variant::Agentguard(_) | Variant::Limited | Variant::Flooded
        ) {
            worker.arg("--guarded");
        }
        let mut worker = worker.spawn().context("cannot start a worker")?;
        let input = worker.stdin.take().context("stdin is a pipe")?;
        let output = worker.stdout.take().context("stdout is a pipe")?;
        let mut lane = Self {
            variant: ground.variant,
            guard,
            worker,
            input,
            output: BufReader::new(output),
        };
        let answer = lane.read()?;
        ensure!(
            answer == "ready",
            "the worker of {} did not start",
            ground.variant.name()
        );
        Ok(lane)
    }

    /// Nanoseconds of one call, in one round.
    pub(super) fn measure(&mut self, measure: Measure) -> Result<f64> {
        writeln!(self.input, "{}", measure.name())?;
        let answer = self.read()?;
        answer
            .parse()
            .with_context(|| format!("the worker of {} said {answer:?}", self.variant.name()))
    }

    /// The daemon, where there is one.
    pub(super) fn daemon(&self) -> Option<&Daemon<'a>> {
        match &self.guard {
            Guard::Daemon(daemon) => Some(daemon),
            Guard::Nothing | Guard::Links { .. } => None,
        }
    }

    fn read(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        // Either fails only if it has ended, which is what is wanted.
        drop(self.worker.kill());
        drop(self.worker.wait());
    }
}

fn load_ruleset(ground: &Ground, addresses: u32) -> Result<()> {
    // Its user space looks the path up there, wherever cgroup v2 is mounted.
    let path = ground
        .cgroup
        .strip_prefix("/sys/fs/cgroup")
        .context("nftables looks for cgroups in /sys/fs/cgroup only, and cgroup v2 is elsewhere")?;
    // The bench's cgroup, the lane's, the worker's.
    let ruleset = rules::ruleset(addresses, &path.display().to_string(), 3);
    let nft = command::find("nft").context("no nft")?;
    ground.network.in_client(|| {
        let mut child = Command::new(nft)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start nft")?;
        let mut stdin = child.stdin.take().context("stdin is a pipe")?;
        stdin.write_all(ruleset.as_bytes())?;
        drop(stdin);
        let status = child.wait()?;
        ensure!(status.success(), "nft failed ({status})");
        Ok(())
    })
}

/// Answers at the other end for as long as this process lives: TCP is accepted, the first datagram to
/// each sink is returned. What comes later fills a buffer and is dropped: reading it would keep the
/// other CPU busy.
fn serve(network: &Network) -> Result<()> {
    network.in_server(|| {
        for sink in rules::SINKS {
            let socket = UdpSocket::bind(sink)?;
            thread::spawn(move || {
                let mut datagram = [0; 64];
                if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                    drop(socket.send_to(&datagram[..length], from));
                }
                loop {
                    thread::park();
                }
            });
        }
        let drain = TcpListener::bind(rules::DRAIN)?;
        thread::spawn(move || {
            for mut stream in drain.incoming().flatten() {
                let mut buffer = vec![0; 256 << 10];
                while matches!(stream.read(&mut buffer), Ok(1..)) {}
            }
        });
        for port in rules::TCP_PORTS {
            let listener = TcpListener::bind(("0.0.0.0", port))?;
            thread::spawn(move || {
                for stream in listener.incoming() {
                    drop(stream);
                }
            });
        }
        Ok(())
    })
}
