//! The one who is measured: this binary again, in the cgroup and the network of its variant.

use std::{
    fs,
    io::{self, BufRead as _, Write as _},
    net::{TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    libc::{SOCK_DGRAM, SOCK_STREAM},
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        socket::SockaddrIn,
    },
    unistd::Pid,
};

use super::{
    measure::Measure,
    rules::{self, DENIED, DRAIN, SINKS},
    system,
};

/// How this binary becomes a worker; not for people.
#[derive(clap::Args)]
pub(crate) struct Role {
    #[arg(long)]
    cgroup: PathBuf,
    #[arg(long)]
    network: PathBuf,
    #[arg(long)]
    addresses: u32,
    /// Whether what no rule allows must be refused here.
    #[arg(long)]
    guarded: bool,
    /// Asks for new peers without an end, on the first CPU, and is not measured.
    #[arg(long)]
    flood: bool,
}

/// What is sent: 64 bytes of payload.
const PAYLOAD: [u8; 64] = [7; 64];

/// What a stream is made of.
static PIECE: [u8; 64 << 10] = [7; 64 << 10];

/// Answers each line on standard input, a measure's name, with the nanoseconds of one call.
pub(crate) fn work(role: &Role) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    SigSet::all().thread_unblock()?;
    fs::write(role.cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter {}", role.cgroup.display()))?;
    let namespace = fs::File::open(&role.network).context("cannot open the network namespace")?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
    stay_on_one_cpu(role.flood)?;
    if role.flood {
        return flood();
    }

    let mut worker = Worker::new(role)?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        let measure = Measure::named(line?.trim()).context("no such measure")?;
        let mut out = io::stdout().lock();
        writeln!(out, "{}", worker.measure(measure)?)?;
        out.flush()?;
    }
    Ok(())
}

/// The last CPU, since the first one has most of the interrupts; or the first.
fn stay_on_one_cpu(first: bool) -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let cpu = if first { cpus.next() } else { cpus.next_back() };
    let mut only = CpuSet::new();
    only.set(cpu.context("no CPU")?)?;
    sched_setaffinity(this, &only).context("cannot stay on one CPU")
}

/// Connects to one peer after the other, whatever is said to it.
fn flood() -> Result<()> {
    let socket = system::socket(SOCK_DGRAM)?;
    let mut used = 0;
    loop {
        for peer in rules::peers(1, used, 1_000) {
            // Nearly all are refused.
            system::connect(&socket, &peer.into()).ok();
        }
        used = (used + 1_000) % 1_000_000;
    }
}

struct Worker {
    addresses: u32,
    /// Peers taken so far, so that each is new.
    used: u32,
    connected: UdpSocket,
    unconnected: UdpSocket,
    wandering: OwnedFd,
    repeating: UdpSocket,
    stream: TcpStream,
}

impl Worker {
    fn new(role: &Role) -> Result<Self> {
        let connected = answered(SINKS[0])?;
        connected.connect(SINKS[0])?;
        let worker = Self {
            addresses: role.addresses,
            used: 0,
            connected,
            unconnected: answered(SINKS[1])?,
            wandering: system::socket(SOCK_DGRAM)?,
            repeating: UdpSocket::bind("0.0.0.0:0")?,
            stream: TcpStream::connect(DRAIN)?,
        };
        worker.repeating.connect(SINKS[0])?;
        worker.repeating.send(&PAYLOAD)?;
        // Without this, no comparison would mean anything.
        let refused = UdpSocket::bind("0.0.0.0:0")?
            .send_to(&PAYLOAD, DENIED)
            .is_err();
        ensure!(
            refused == role.guarded,
            "sending to {DENIED} was {}refused",
            if refused { "" } else { "not " }
        );
        Ok(worker)
    }

    /// Nanoseconds of one call, over as many as the measure has in a round; others before it warm
    /// the caches.
    fn measure(&mut self, measure: Measure) -> Result<u64> {
        self.call(measure, measure.calls() / 4)?;
        let calls = measure.calls();
        let elapsed = self.call(measure, calls)?;
        Ok(u64::try_from(elapsed.as_nanos())? / u64::from(calls))
    }

    fn call(&mut self, measure: Measure, calls: u32) -> Result<Duration> {
        let first = self.used;
        self.used += calls;
        let peers: Vec<SockaddrIn> = match measure {
            Measure::UdpConnect => rules::peers(self.addresses, first, calls)
                .map(SockaddrIn::from)
                .collect(),
            Measure::TcpConnect => rules::tcp_peers(self.addresses, first, calls)
                .map(SockaddrIn::from)
                .collect(),
            Measure::UdpRepeat => vec![SINKS[0].into()],
            Measure::UdpSend | Measure::UdpSendTo | Measure::TcpStream => vec![SINKS[1].into()],
        };
        let start = Instant::now();
        match measure {
            Measure::UdpConnect => {
                for peer in &peers {
                    system::connect(&self.wandering, peer)?;
                }
            }
            Measure::UdpRepeat => {
                for _ in 0..calls {
                    system::connect(&self.repeating, &peers[0])?;
                }
            }
            Measure::UdpSend => {
                for _ in 0..calls {
                    system::send(&self.connected, &PAYLOAD)?;
                }
            }
            Measure::UdpSendTo => {
                for _ in 0..calls {
                    system::send_to(&self.unconnected, &PAYLOAD, &peers[0])?;
                }
            }
            Measure::TcpConnect => {
                for peer in &peers {
                    system::connect(&system::socket(SOCK_STREAM)?, peer)?;
                }
            }
            Measure::TcpStream => {
                for _ in 0..calls {
                    self.stream.write_all(&PIECE)?;
                }
            }
        }
        Ok(start.elapsed())
    }
}

/// A socket that got an answer from its peer: connection tracking takes the flow as established.
fn answered(peer: std::net::SocketAddrV4) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(&PAYLOAD, peer)?;
    socket
        .recv(&mut [0; 64])
        .with_context(|| format!("no answer from {peer}"))?;
    Ok(socket)
}
