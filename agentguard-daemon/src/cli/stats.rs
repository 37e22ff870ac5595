//! `agentguard stats`: who did most, to whom, and by which rules.

use clap::Args;
use jiff::Timestamp;

use super::{Failure, Output, Place, print_json, printable, since::Since};
use crate::history::query::{Cell, QueryError, Tables};

const DAY_MS: i64 = 86_400_000;

/// Widest bar, in characters.
const BAR: usize = 30;

#[derive(Args)]
pub(super) struct Stats {
    /// From this time on: 2h (ago), or 2026-01-31T12:00:00Z. Without it, a day.
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// How many of each.
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: u32,
    #[command(flatten)]
    output: Output,
}

/// One line of a list.
#[derive(serde::Serialize)]
struct Line {
    name: String,
    allowed: i64,
    denied: i64,
    bytes: i64,
}

#[derive(serde::Serialize)]
struct Lists {
    identities: Vec<Line>,
    destinations: Vec<Line>,
    rules: Vec<Line>,
}

const SUMS: &str = "sum(CASE WHEN verdict = 'allow' AND event <> 'closed' THEN count ELSE 0 END), \
     sum(CASE WHEN verdict IN ('deny', 'would-deny') THEN count ELSE 0 END), \
     sum(bytes_out + bytes_in)";

impl Stats {
    pub(super) fn run(&self, place: &Place) -> Result<(), Failure> {
        let tables = Tables::open(&place.history()?)?;
        let since = self.since.map_or_else(
            || Timestamp::now().as_millisecond() - DAY_MS,
            Since::as_millisecond,
        );
        let list = |name: &str, from: &str, condition: &str| {
            let sql = format!(
                "SELECT {name}, {SUMS} FROM {from} WHERE {condition}
                 GROUP BY 1 ORDER BY sum(count) DESC LIMIT {}",
                self.top
            );
            ask(&tables, &sql)
        };
        // A minute that began before counts whole.
        let minute = since - since.rem_euclid(60_000);
        let of_minute = format!("minute_ms >= {minute}");
        let lists = Lists {
            identities: list(
                "identity",
                "rollups",
                &format!("{of_minute} AND identity <> ''"),
            )?,
            destinations: list(
                "protocol || ' ' || address || ' port ' || coalesce(port, '-')",
                "events",
                &format!("time_ms >= {since} AND direction = 'egress' AND address IS NOT NULL"),
            )?,
            rules: list("rule", "rollups", &format!("{of_minute} AND rule <> ''"))?,
        };
        if self.output.json {
            return print_json(&lists);
        }
        print("IDENTITY", &lists.identities);
        print("DESTINATION", &lists.destinations);
        print("RULE", &lists.rules);
        Ok(())
    }
}

fn ask(tables: &Tables, sql: &str) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    tables
        .ask(
            sql,
            |_| {},
            |row| {
                if let [
                    Cell::Text(name),
                    Cell::Integer(allowed),
                    Cell::Integer(denied),
                    Cell::Integer(bytes),
                ] = row.as_slice()
                {
                    lines.push(Line {
                        name: name.clone(),
                        allowed: *allowed,
                        denied: *denied,
                        bytes: *bytes,
                    });
                }
            },
        )
        .map_err(|error| match error {
            QueryError::History(error) => Failure::from(error),
            QueryError::Question(why) => Failure::Internal(why),
        })?;
    Ok(lines)
}

fn print(heading: &str, lines: &[Line]) {
    let most = lines.iter().map(|line| line.allowed + line.denied).max();
    let most = most.unwrap_or(0).max(1);
    say!(
        "{heading:<44} {:>12} {:>12} {:>14}",
        "ALLOWED",
        "DENIED",
        "BYTES"
    );
    for line in lines {
        let part = |count: i64| {
            let share = count.max(0).unsigned_abs() * BAR as u64 / most.unsigned_abs();
            usize::try_from(share).unwrap_or(BAR)
        };
        say!(
            "{:<44} {:>12} {:>12} {:>14}  {}{}",
            printable(&line.name),
            line.allowed,
            line.denied,
            line.bytes,
            "#".repeat(part(line.allowed)),
            "!".repeat(part(line.denied)),
        );
    }
    say!("");
}
