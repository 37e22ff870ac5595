//! The daemon with a large policy: how long it takes to load, and what memory it then needs.

use std::{fs, path::Path, thread, time::Duration, time::Instant};

use anyhow::{Context as _, Result};

use super::{lane, report::word, rules};
use crate::{
    command,
    daemon::{Daemon, Stage},
    sandbox::CgroupTree,
    workspace,
};

const IDENTITIES: u32 = 1_000;
const IDLE: Duration = Duration::from_secs(3);

pub(super) fn run(agentguard: &Path, cgroups: &CgroupTree) -> Result<()> {
    let files = workspace::target().join("bench/load");
    let top = cgroups.make("load")?;
    for number in 1..IDENTITIES {
        cgroups.make(&format!("load/other-{number}"))?;
    }
    let stage = Stage::set(&files, &top, &files.join("policy.d"))?;
    lane::write_policy(&files, &rules::policy(rules::MOST_ADDRESSES, IDENTITIES))?;
    let begun = Instant::now();
    let daemon = Daemon::start(agentguard, &stage)?;
    daemon.wait_ready()?;
    let started = begun.elapsed();
    let fresh = memory(&daemon, "VmRSS:")?;
    let begun = Instant::now();
    command::output(&mut daemon.cli(&["reload", "--wait"]))?;
    let reloaded = begun.elapsed();
    let (resident, peak) = (memory(&daemon, "VmRSS:")?, memory(&daemon, "VmHWM:")?);
    let before = cpu_ticks(&daemon)?;
    thread::sleep(IDLE);
    let idle = cpu_ticks(&daemon)? - before;

    println!(
        "\nThe daemon with {} addresses and {IDENTITIES} identities",
        rules::MOST_ADDRESSES
    );
    let seconds = |time: Duration| {
        let met = word(time <= Duration::from_secs(2));
        format!("{:>10.2} s    aim: 2 s, {met}", time.as_secs_f64())
    };
    let mebibytes = |kibibytes: u64| {
        let met = word(kibibytes < 40 * 1_024);
        format!(
            "{:>10.1} MiB  aim: 40 MiB, {met}",
            kibibytes as f64 / 1_024.0
        )
    };
    println!("  {:<36} {}", "from start to serving", seconds(started));
    println!(
        "  {:<36} {}",
        "reload, until it is in force",
        seconds(reloaded)
    );
    println!("  {:<36} {}", "resident after the start", mebibytes(fresh));
    println!(
        "  {:<36} {}",
        "resident after the reload",
        mebibytes(resident)
    );
    println!(
        "  {:<36} {:>10.1} MiB",
        "the most it ever had",
        peak as f64 / 1_024.0
    );
    println!(
        "  {:<36} {:>10} ms   aim: 0, {}",
        format!("CPU time in {} s idle", IDLE.as_secs()),
        idle * 10,
        word(idle == 0)
    );
    Ok(())
}

/// A line of `/proc/PID/status`, in KiB.
fn memory(daemon: &Daemon, line: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let value = status
        .lines()
        .find_map(|it| it.strip_prefix(line))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .with_context(|| format!("no {line} of the daemon"))?;
    Ok(value.parse()?)
}

/// User and system time, in ticks of 10 ms.
fn cpu_ticks(daemon: &Daemon) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid()))?;
    let fields = stat.rsplit_once(')').context("no name in stat")?.1;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(times.next().context("no time in stat")?.parse()?) };
    Ok(next()? + next()?)
}
