//! The small programs of the demo: this binary again, in a cgroup and a network of its own.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
    },
};

/// Long enough for the wire of the demo, short enough to watch a packet being dropped.
const PATIENCE: Duration = Duration::from_millis(800);

/// How this binary plays a program; not for people.
#[derive(clap::Args)]
pub(crate) struct Role {
    /// Die with the parent, then become this program.
    #[arg(long, num_args = 1.., allow_hyphen_values = true)]
    exec: Vec<OsString>,
    #[arg(long, required_unless_present = "exec")]
    name: Option<String>,
    #[arg(long, required_unless_present = "exec")]
    cgroup: Option<PathBuf>,
    #[arg(long, required_unless_present = "exec")]
    network: Option<PathBuf>,
    /// `tcp:ADDRESS:PORT`, `udp:ADDRESS:PORT` or `raw:ADDRESS`.
    attempts: Vec<String>,
}

/// A command that runs `program` and dies with this process, whatever ends it.
pub(crate) fn dependent(program: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(["play", "--exec"]).arg(program);
    Ok(command)
}

/// A program that waits in its cgroup for the word to go.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(
        name: &str,
        cgroup: &Path,
        network: &Path,
        attempts: &[&str],
    ) -> Result<Self> {
        let child = Command::new(std::env::current_exe().context("cannot find this program")?)
            .args(["play", "--name", name, "--cgroup"])
            .arg(cgroup)
            .arg("--network")
            .arg(network)
            .args(attempts)
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self(child))
    }

    /// Lets it begin.
    pub(crate) fn go(&mut self) -> Result<()> {
        drop(self.0.stdin.take().context("it has begun already")?);
        Ok(())
    }

    pub(crate) fn is_done(&mut self) -> Result<bool> {
        let status = self.0.try_wait()?;
        if let Some(status) = status.filter(|status| !status.success()) {
            anyhow::bail!("a program of the demo could not play: {status}");
        }
        Ok(status.is_some())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Either fails only if it has ended, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the started process does.
pub(crate) fn play(role: &Role) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The demo blocks signals for itself.
    SigSet::all().thread_unblock()?;
    if let Some((program, arguments)) = role.exec.split_first() {
        return Err(Command::new(program).args(arguments).exec().into());
    }
    let name = role.name.as_deref().context("no name")?;
    let cgroup = role.cgroup.as_deref().context("no cgroup")?;
    let network = role.network.as_deref().context("no network")?;
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter {}", cgroup.display()))?;
    let namespace = fs::File::open(network).context("cannot open the network namespace")?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
    prctl::set_name(&std::ffi::CString::new(name)?)?;

    io::stdin().read_to_end(&mut Vec::new())?;
    for attempt in &role.attempts {
        // Being refused is a part of the play: the records tell of it.
        drop(try_to_reach(attempt)?);
        thread::sleep(Duration::from_millis(120));
    }
    Ok(())
}

/// The outer result is whether the attempt makes sense, the inner one what the program saw.
fn try_to_reach(attempt: &str) -> Result<io::Result<()>> {
    let (kind, target) = attempt.split_once(':').context("no kind of attempt")?;
    Ok(match kind {
        "tcp" => speak_tcp(target.parse()?),
        "udp" => speak_udp(target.parse()?),
        "raw" => speak_raw(target.parse()?),
        other => anyhow::bail!("no attempt of kind {other}"),
    })
}

fn speak_tcp(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; 64];
    stream.read(&mut answer).map(drop)
}

fn speak_udp(target: SocketAddr) -> io::Result<()> {
    let local: IpAddr = if target.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    UdpSocket::bind((local, 0))?
        .send_to(b"hello", target)
        .map(drop)
}

fn speak_raw(target: IpAddr) -> io::Result<()> {
    let address = SocketAddr::new(target, 0);
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )?;
    UdpSocket::from(raw)
        .send_to(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0], address)
        .map(drop)
}
