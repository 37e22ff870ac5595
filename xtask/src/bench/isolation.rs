//! What one identity notices of another that floods over its limit.
//!
//! The flooding one is stopped and let go in turns, so that all else that the machine does falls on both
//! halves alike. It has a CPU of its own: a share of the worker's CPU is for the scheduler to give.

use std::{
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    lane::{Ground, Lane, Variant},
    measure::Measure,
    report::{median, word},
};
use crate::{command, interrupt, sandbox::CgroupTree};

/// The most that a call may take beside a flood, as a multiple of what it takes alone.
const AIM: f64 = 1.2;

/// Until a flood that was let go runs, or one that was stopped is out of the way.
const SETTLE: Duration = Duration::from_millis(5);

/// The calls whose cost is compared.
const MEASURES: [Measure; 3] = [Measure::UdpConnect, Measure::UdpRepeat, Measure::UdpSend];

pub(super) fn run(agentguard: &Path, cgroups: &CgroupTree, rounds: usize) -> Result<()> {
    let ground = Ground::prepare(Variant::Flooded, cgroups)?;
    let mut lane = Lane::build(&ground, agentguard)?;
    let flood = Flood::start(&ground)?;
    let mut measured = MEASURES.map(|_| [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        for (index, measure) in MEASURES.into_iter().enumerate() {
            for (half, signal) in [Signal::SIGSTOP, Signal::SIGCONT].into_iter().enumerate() {
                interrupt::check()?;
                flood.signal(signal)?;
                thread::sleep(SETTLE);
                measured[index][half].push(lane.measure(measure)?);
            }
        }
    }
    let refused = refused(&lane)?;
    ensure!(
        refused > 0,
        "the flood was within its limit: nothing was measured"
    );
    println!(
        "\nOne identity while another floods over its limit ({refused} refused; aim: {AIM} x alone)"
    );
    println!(
        "  {:<20} {:>10} {:>10} {:>8}",
        "MEASURE", "ALONE ns", "FLOOD ns", "RATIO"
    );
    for (measure, [alone, flooded]) in MEASURES.into_iter().zip(&measured) {
        let (alone, flooded) = (median(alone), median(flooded));
        let ratio = flooded / alone;
        println!(
            "  {:<20} {alone:>10.0} {flooded:>10.0} {ratio:>8.2}  {}",
            measure.name(),
            word(ratio <= AIM)
        );
    }
    Ok(())
}

/// What the flood's limit refused.
fn refused(lane: &Lane<'_>) -> Result<u64> {
    let daemon = lane.daemon().context("no daemon")?;
    let limits = command::output(&mut daemon.cli(&["limits", "--json", "--identity", "flood"]))?;
    let limits: Value = serde_json::from_str(&limits).context("the limits are no JSON")?;
    let limits = limits.as_array().context("the limits are no list")?;
    Ok(limits
        .iter()
        .filter_map(|one| one["refused"].as_u64())
        .sum())
}

/// Somebody who asks for a new peer as often as a CPU can.
struct Flood(Child);

impl Flood {
    fn start(ground: &Ground) -> Result<Self> {
        let mut worker = ground.worker("flood")?;
        worker
            .arg("--flood")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(Self(worker.spawn().context("cannot start a flood")?))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        kill(pid, signal).context("the flood has ended")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Either fails only if it has ended, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
