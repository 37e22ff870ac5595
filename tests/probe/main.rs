//! A small program that tries one route out of its cgroup and says how each call ended.

mod children;
mod crowd;
mod failure;
mod flood;
mod judge;
mod origin;
mod packet;
mod pids;
mod pour;
mod proxy;
mod repeat;
mod routes;
mod serve;
mod storm;
mod talk;
mod turmoil;

use std::{
    env,
    io::{self, BufRead, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use agentguard_tests::probe::{Report, Spec};

/// No probe lives longer than this, whatever hangs.
const LIFETIME_SECONDS: u32 = 300;

fn main() -> ExitCode {
    // SAFETY: `alarm` only sets a timer of this process.
    unsafe { libc::alarm(LIFETIME_SECONDS) };
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["route", spec] => {
            let spec: Spec = serde_json::from_str(spec).expect("the harness writes specs");
            say(&match origin::run(&spec) {
                Ok(()) => Report::Done,
                Err(failure) => failure.into(),
            });
            ExitCode::SUCCESS
        }
        ["talk", talk] => {
            let talk = serde_json::from_str(talk).expect("the harness writes talks");
            say(&match talk::run(&talk) {
                Ok(()) => Report::Done,
                Err(failure) => failure.into(),
            });
            ExitCode::SUCCESS
        }
        ["judge"] => {
            judge::run().expect("the harness reads and writes whole batches");
            ExitCode::SUCCESS
        }
        ["proxy", path] => {
            proxy::run(Path::new(path)).expect("the harness sends one client");
            ExitCode::SUCCESS
        }
        ["storm", count, target] => {
            let count = count.parse().expect("the harness gives a number");
            let target = target.parse().expect("the harness gives an address");
            storm::run(count, target).expect("children can be made");
            ExitCode::SUCCESS
        }
        ["flood", seconds, threads, rate, target] => {
            let [threads, rate] = [threads, rate].map(|text| text.parse().expect("a number"));
            let target = target.parse().expect("an address");
            flood::run(seconds_of(seconds), threads, rate, target).expect("flows can be asked for");
            ExitCode::SUCCESS
        }
        ["repeat", what, peers @ ..] => {
            let peers: Vec<SocketAddr> = peers
                .iter()
                .map(|peer| peer.parse().expect("an address"))
                .collect();
            repeat::run(what, &peers).expect("nothing is refused");
            ExitCode::SUCCESS
        }
        ["pour", way, flows, seconds, target] => {
            let flows = flows.parse().expect("a number");
            let target = target.parse().expect("an address");
            let time = seconds_of(seconds);
            match *way {
                "udp" => pour::udp(time, target),
                "rain" => pour::rain(time, target),
                way => pour::tcp(way == "out", flows, time, target),
            }
            .expect("it pours");
            ExitCode::SUCCESS
        }
        ["chat", count, target] => {
            let count = count.parse().expect("a number");
            let target = target.parse().expect("an address");
            pour::chat(count, target).expect("somebody answers");
            ExitCode::SUCCESS
        }
        ["spend", count, target] => {
            let count = count.parse().expect("a number");
            let target = target.parse().expect("an address");
            pour::spend(count, target).expect("nothing is refused");
            ExitCode::SUCCESS
        }
        ["spend-on", target] => {
            let target = target.parse().expect("an address");
            pour::spend_on(target).expect("nothing is refused");
            ExitCode::SUCCESS
        }
        ["serve", port] => {
            let port = port.parse().expect("a number");
            serve::run(port).expect("somebody comes");
            ExitCode::SUCCESS
        }
        ["turmoil", seed, live] => {
            let seed = seed.parse().expect("a number");
            let live = live.parse().expect("an address");
            turmoil::run(seed, live).expect("the harness says how long");
            ExitCode::SUCCESS
        }
        ["ask", target] => {
            let target = target.parse().expect("the storm gives an address");
            ExitCode::from(u8::from(storm::ask(target)))
        }
        ["crowd", rounds, here, there, first, second] => {
            let rounds = rounds.parse().expect("the harness gives a number");
            let targets = [first, second].map(|target| target.parse().expect("an address"));
            let (here, there) = (Path::new(here), Path::new(there));
            crowd::run(rounds, here, there, targets).expect("children can be made");
            ExitCode::SUCCESS
        }
        ["answer", first, second] => {
            let targets = [first, second].map(|target| target.parse().expect("an address"));
            ExitCode::from(crowd::answer(targets))
        }
        ["fight", count, first, ledger, mark, target] => {
            let [count, mark] = [count, mark].map(|text| text.parse().expect("a number"));
            let first = first.parse().expect("a process id");
            let target = target.parse().expect("an address");
            let mark = u8::try_from(mark).expect("a byte");
            pids::fight(count, first, Path::new(ledger), mark, target).expect("ids become free");
            ExitCode::SUCCESS
        }
        ["relay", path, target] => {
            let target = target.parse().expect("an address");
            pids::relay(Path::new(path), target).expect("the program is there");
            ExitCode::SUCCESS
        }
        ["chain", low, high, target] => {
            let [low, high] = [low, high].map(|pid| pid.parse().expect("a process id"));
            let target = target.parse().expect("an address");
            pids::chain(low, high, target).expect("children can be made");
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

fn seconds_of(text: &str) -> Duration {
    Duration::from_secs(text.parse().expect("a number"))
}

/// Writes a report.
fn say(report: &Report) {
    let mut line = serde_json::to_vec(report).expect("a report is plain data");
    line.push(b'\n');
    io::stdout()
        .write_all(&line)
        .expect("the harness reads reports");
}

/// Tells the harness that everything is in place, and waits for its word.
fn pause(port: u16) {
    say(&Report::Ready { port });
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .expect("the harness keeps stdin open");
}
