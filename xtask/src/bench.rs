//! Measures what agentguard costs against nothing, against hooks that do nothing, and against an equal
//! nftables ruleset.
//!
//! Each variant has a cgroup and a network of its own; all are there at once, and each round asks
//! every one of them in turn, so that what else the machine does falls on all alike. It reports; it
//! is no test.

mod isolation;
mod lane;
mod load;
mod measure;
mod noop;
mod report;
mod rules;
mod system;
pub(crate) mod worker;

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;
use serde_json::Value;

use self::{
    lane::{Ground, Lane, Variant},
    measure::Measure,
    report::Series,
};
use crate::{
    build, command, interrupt,
    sandbox::{self, CgroupTree},
    setup,
};

/// Addresses in policy.
const COUNTS: [u32; 3] = [1, 1_000, rules::MOST_ADDRESSES];

/// Rounds that only warm up.
const WARM_UP: usize = 3;

/// Long enough for a daemon to take in the events of a round: the next variant is not to pay for it.
const SETTLE: Duration = Duration::from_millis(40);

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each variant is asked for each measure.
    #[arg(long, default_value_t = 60)]
    rounds: usize,
}

/// Builds what is missing, measures and reports.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("the bench needs root: it makes cgroups and namespaces and loads kernel programs");
    }
    setup::namespace_tools()?;
    setup::packet_filter()?;
    let agentguard = build::run(&build::Options { release: true })?;
    sandbox::enter_private_mounts()?;
    interrupt::watch()?;
    command::run(&mut command::cargo([
        "bench",
        "--quiet",
        "--package",
        "agentguard-daemon",
        "--bench",
        "history",
    ]))?;
    let measured = measure(&agentguard, options.rounds);
    if interrupt::is_wanted() {
        println!("bench: interrupted, and cleaned up");
        return Ok(());
    }
    measured
}

fn measure(agentguard: &Path, rounds: usize) -> Result<()> {
    let cgroups = CgroupTree::new("bench")?;
    load::run(agentguard, &cgroups)?;
    isolation::run(agentguard, &cgroups, rounds)?;

    let mut variants = vec![Variant::Bare, Variant::Noop];
    variants.extend(COUNTS.map(Variant::Nftables));
    variants.extend(COUNTS.map(Variant::Agentguard));
    variants.push(Variant::Limited);
    // Order matters: what is declared last is taken down first.
    let grounds = variants
        .iter()
        .map(|&variant| Ground::prepare(variant, &cgroups))
        .collect::<Result<Vec<_>>>()?;
    let mut lanes = grounds
        .iter()
        .map(|ground| Lane::build(ground, agentguard))
        .collect::<Result<Vec<_>>>()?;
    let mut all: Vec<Series> = Measure::ALL
        .iter()
        .flat_map(|&measure| {
            variants.iter().map(move |&variant| Series {
                measure,
                variant,
                rounds: Vec::new(),
            })
        })
        .collect();
    println!(
        "\nbench: {rounds} rounds of {} variants in turns",
        lanes.len()
    );
    for round in 0..rounds + WARM_UP {
        for (index, measure) in Measure::ALL.into_iter().enumerate() {
            for turn in 0..lanes.len() {
                interrupt::check()?;
                // Nobody is always the one after the same other.
                let number = (turn + round) % lanes.len();
                let nanoseconds = lanes[number].measure(measure)?;
                if round >= WARM_UP {
                    all[index * lanes.len() + number].rounds.push(nanoseconds);
                }
                // After every variant, so that none finds colder caches than another.
                if measure.has_events() {
                    thread::sleep(SETTLE);
                }
            }
        }
    }
    report::print(&all, &COUNTS);
    println!();
    lanes.iter().try_for_each(print_accounts)
}

/// What became of the events: a measure whose events were dropped would be of something else.
fn print_accounts(lane: &Lane<'_>) -> Result<()> {
    let Some(daemon) = lane.daemon() else {
        return Ok(());
    };
    let status: Value =
        serde_json::from_str(&command::output(&mut daemon.cli(&["status", "--json"]))?)
            .context("the status is no JSON")?;
    let identities = status["identities"].as_array();
    let worker = identities
        .and_then(|all| all.iter().find(|one| one["name"] == "worker"))
        .context("the daemon does not know the worker")?;
    let events = |what| worker["events"][what].as_u64().unwrap_or(0);
    let [produced, received, dropped] = ["produced", "received", "dropped"].map(events);
    println!(
        "{:<18} {produced} events: {received} received, {dropped} dropped, {} unread, \
         {} of them recorded so far",
        lane.variant.name(),
        events("unread"),
        events("delivered") + events("folded"),
    );
    Ok(())
}
