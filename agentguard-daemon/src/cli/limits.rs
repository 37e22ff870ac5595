//! `agentguard limits`: what is configured, used, left and refused.

use std::{thread, time::Duration};

use super::{Failure, Output, Place, print_json, print_table, printable, unexpected};
use crate::control::{LimitStatus, LimitUnit, Request, Response};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct Limits {
    /// Show it anew each second, until interrupted.
    #[arg(long)]
    watch: bool,
    /// Show those of this identity only.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Limits {
    pub(super) fn run(&self, place: &Place) -> Result<(), Failure> {
        loop {
            let limits = self.ask(place)?;
            if self.output.json {
                print_json(&limits)?;
            } else {
                if self.watch {
                    // To the upper left, and clear from there.
                    say!("\x1b[H\x1b[2J");
                }
                print(&limits);
            }
            if !self.watch {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }

    fn ask(&self, place: &Place) -> Result<Vec<LimitStatus>, Failure> {
        let mut limits = match place.ask_once(&Request::Status {})? {
            Response::Status(status) => status.limits,
            other => return Err(unexpected(&other)),
        };
        if let Some(identity) = &self.identity {
            limits.retain(|limit| limit.identity == *identity);
        }
        Ok(limits)
    }
}

fn print(limits: &[LimitStatus]) {
    if limits.is_empty() {
        say!("nothing is limited");
        return;
    }
    let rows: Vec<[String; 8]> = limits
        .iter()
        .map(|limit| {
            let amount = |value| match limit.unit {
                LimitUnit::Flows => u64::to_string(&value),
                LimitUnit::Bytes => bytes(value),
            };
            [
                printable(&limit.identity),
                limit.limit.clone(),
                limit.configured.clone(),
                scope(limit),
                format!("{} of {}", amount(limit.used), amount(limit.most)),
                amount(limit.headroom),
                refused(limit),
                limit.period_ends.map_or_else(String::new, |ends| {
                    ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
                }),
            ]
        })
        .collect();
    print_table(
        [
            "IDENTITY",
            "LIMIT",
            "CONFIGURED",
            "FOR",
            "USED",
            "LEFT",
            "REFUSED",
            "UNTIL",
        ],
        &rows,
    );
}

/// The rule, and what is counted apart.
fn scope(limit: &LimitStatus) -> String {
    let mut text = limit
        .rule
        .as_ref()
        .map_or_else(String::new, |rule| format!("rule {}", printable(rule)));
    if let Some(count) = limit.counted_apart {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&format!("each of {count} {}", limit.per));
    }
    if text.is_empty() {
        text.push_str("all");
    }
    text
}

fn refused(limit: &LimitStatus) -> String {
    let mut text = limit.refused.to_string();
    if limit.refused_bytes > 0 {
        text.push_str(&format!(" ({})", bytes(limit.refused_bytes)));
    }
    if limit.is_audit {
        text.push_str(", recorded only");
    }
    text
}

/// Bytes with a unit that leaves up to four digits.
fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled >= 10_240 && unit + 1 < UNITS.len() {
        scaled >>= 10;
        unit += 1;
    }
    format!("{scaled} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_four_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(10_239), "10239 B");
        assert_eq!(bytes(10_240), "10 KiB");
        assert_eq!(bytes(5 << 30), "5120 MiB");
        assert_eq!(bytes(u64::MAX), "16383 PiB");
    }
}
