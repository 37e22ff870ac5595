//! `agentguard sinks`: how they are, whether one works, and records once more.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};

use super::{Failure, Output, Place, print_json, print_table, printable, since::Since, unexpected};
use crate::{
    control::{Request, Response},
    history::search::first_since,
    sink::SinkStatus,
};

/// How long a test waits.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Args)]
pub(super) struct Sinks {
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Show how they are.
    Status(Output),
    /// Send a record through all of it, and say whether the sink took it.
    Test {
        /// Name of the sink in the settings.
        sink: String,
    },
    /// Send records again.
    Replay {
        /// Name of the sink in the settings.
        sink: String,
        /// From this time on: 2h (ago), or 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        since: Since,
    },
}

impl Sinks {
    pub(super) fn run(&self, place: &Place) -> Result<(), Failure> {
        match &self.command {
            None => show(place, self.output),
            Some(Command::Status(output)) => show(place, *output),
            Some(Command::Test { sink }) => test(place, sink),
            Some(Command::Replay { sink, since }) => {
                let first = first_since(&place.history()?, since.as_millisecond())?;
                let request = Request::ReplaySink {
                    sink: sink.clone(),
                    after: first - 1,
                };
                accepted(&place.ask_once(&request)?)?;
                say!(
                    "{} gets all records from number {first} on again",
                    printable(sink)
                );
                Ok(())
            }
        }
    }
}

fn statuses(place: &Place) -> Result<Vec<SinkStatus>, Failure> {
    match place.ask_once(&Request::Status {})? {
        Response::Status(status) => Ok(status.sinks),
        other => Err(unexpected(&other)),
    }
}

fn show(place: &Place, output: Output) -> Result<(), Failure> {
    let sinks = statuses(place)?;
    if output.json {
        return print_json(&sinks);
    }
    if sinks.is_empty() {
        say!("no sinks: records are in the history only, see `agentguard events`");
        return Ok(());
    }
    let rows: Vec<[String; 7]> = sinks
        .iter()
        .map(|sink| {
            [
                printable(&sink.name),
                printable(&sink.target),
                sink.waiting.to_string(),
                sink.delivered.to_string(),
                sink.refused.to_string(),
                sink.retries.to_string(),
                printable(sink.last_error.as_deref().unwrap_or("-")),
            ]
        })
        .collect();
    print_table(
        [
            "SINK",
            "TARGET",
            "WAITING",
            "DELIVERED",
            "REFUSED",
            "RETRIES",
            "LAST ERROR",
        ],
        &rows,
    );
    Ok(())
}

fn test(place: &Place, sink: &str) -> Result<(), Failure> {
    let of = |all: Vec<SinkStatus>| all.into_iter().find(|it| it.name == sink);
    let before = of(statuses(place)?).map_or((0, 0), |it| (it.delivered, it.retries));
    let request = Request::TestSink {
        sink: sink.to_owned(),
    };
    accepted(&place.ask_once(&request)?)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        thread::sleep(Duration::from_millis(100));
        let Some(now) = of(statuses(place)?) else {
            return Err(Failure::Unavailable("the daemon was restarted".to_owned()));
        };
        let (name, target) = (printable(sink), printable(&now.target));
        if now.delivered > before.0 && now.waiting == 0 {
            say!("{name}: {target} took it");
            return Ok(());
        }
        if let Some(error) = now.last_error
            && now.retries > before.1
        {
            say!("{name}: {target} did not take it: {}", printable(&error));
            return Err(Failure::No);
        }
        if Instant::now() > deadline {
            say!(
                "{name}: {target} took nothing within {} s",
                PATIENCE.as_secs()
            );
            return Err(Failure::No);
        }
    }
}

fn accepted(response: &Response) -> Result<(), Failure> {
    match response {
        Response::Accepted {} => Ok(()),
        other => Err(unexpected(other)),
    }
}
