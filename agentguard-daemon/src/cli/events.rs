//! `agentguard events`: what the history holds, and what comes.

use std::{net::IpAddr, str::FromStr, thread, time::Duration};

use clap::Args;
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Failure, Place,
    format::{Format, csv_line},
    printable,
    since::Since,
};
use crate::{
    control::VerdictName,
    history::{
        HistoryError,
        search::{Found, Query, search},
    },
};

/// How many are shown where no time is given.
const NEWEST: usize = 1_000;

/// How often it is looked for what came.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(super) struct Events {
    /// Go on with those to come.
    #[arg(short, long)]
    follow: bool,
    /// From this time on: 2h (ago), or 2026-01-31T12:00:00Z. Without it, the last 1,000.
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<Since>,
    /// Only so many: the newest.
    #[arg(short = 'n', long, value_name = "N")]
    newest: Option<usize>,
    /// Of this identity only.
    #[arg(long)]
    identity: Option<String>,
    /// With this verdict only.
    #[arg(long)]
    verdict: Option<VerdictName>,
    /// With this other end only: 10.0.0.7, 10.0.0.0/8, 10.0.0.7:443, [2001:db8::1]:443 or :443.
    #[arg(long, value_name = "ADDRESS")]
    to: Option<Peer>,
    /// How to print: JSON is OCSF, one object a line.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// The same as `--output json`.
    #[arg(long)]
    json: bool,
}

/// An other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    network: Option<IpNet>,
    port: Option<u16>,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let of = |network: IpNet, port| Self {
            network: Some(network),
            port,
        };
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(of(network, None));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(of(address.into(), None));
        }
        if let Ok(end) = text.parse::<std::net::SocketAddr>() {
            return Ok(of(end.ip().into(), Some(end.port())));
        }
        if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
            return Ok(Self {
                network: None,
                port: Some(port),
            });
        }
        Err("write an address, a network, an address with a port, or :PORT".to_owned())
    }
}

impl Events {
    pub(super) fn run(self, place: &Place) -> Result<(), Failure> {
        let directory = place.history()?;
        let format = if self.json { Format::Json } else { self.output };
        let newest = match (self.newest, self.since) {
            (None, None) => Some(NEWEST),
            (newest, _) => newest,
        };
        let mut query = Query {
            after: 0,
            since_ms: self.since.map(Since::as_millisecond),
            until_ms: self.until.map(Since::as_millisecond),
            identity: self.identity,
            verdict: self.verdict.map(VerdictName::name),
            network: self.to.and_then(|to| to.network),
            port: self.to.and_then(|to| to.port),
            newest,
        };
        if format == Format::Csv {
            say!("{}", COLUMNS.join(","));
        }
        loop {
            let mut last = query.after;
            search(
                &directory,
                &query,
                |found| format == Format::Json || !is_connection(found),
                |found| {
                    last = found.sequence;
                    print(format, &found);
                    Ok::<(), HistoryError>(())
                },
            )?;
            if !self.follow {
                return Ok(());
            }
            query.after = last;
            query.newest = None;
            thread::sleep(PAUSE);
        }
    }
}

const COLUMNS: [&str; 19] = [
    "sequence",
    "time",
    "event",
    "identity",
    "class",
    "verdict",
    "reason",
    "rule",
    "direction",
    "protocol",
    "address",
    "port",
    "program",
    "pid",
    "user",
    "count",
    "bytes_out",
    "bytes_in",
    "duration_ms",
];

fn is_connection(found: &Found) -> bool {
    matches!(
        found.event.as_str(),
        "connection" | "closed" | "bind" | "socket"
    )
}

fn print(format: Format, found: &Found) {
    match format {
        Format::Json => say!("{}", found.line.as_deref().unwrap_or_default()),
        Format::Csv => say!("{}", csv(found)),
        Format::Table => say!("{}", table(found)),
    }
}

fn time(found: &Found) -> String {
    Timestamp::from_millisecond(found.time_ms)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string()
}

fn target(found: &Found) -> String {
    match (&found.address, found.port) {
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.clone(),
        (None, _) => "-".to_owned(),
    }
}

fn table(found: &Found) -> String {
    let or_dash = |text: &Option<String>| printable(text.as_deref().unwrap_or("-"));
    if !is_connection(found) {
        let line: Value = found
            .line
            .as_deref()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_default();
        return format!(
            "{}  {}",
            time(found),
            line["message"].as_str().unwrap_or("-")
        );
    }
    let what = match found.event.as_str() {
        "closed" => "close",
        "socket" => "socket",
        _ => found.direction.as_deref().unwrap_or("-"),
    };
    let times = if found.count > 1 {
        format!(" x{}", found.count)
    } else {
        String::new()
    };
    format!(
        "{}  {:<20} {:<7} {:<10} {what:<7} {:<5} {:<24} {:<22} {}[{}] {}{times}",
        time(found),
        or_dash(&found.identity),
        or_dash(&found.actor),
        or_dash(&found.verdict),
        or_dash(&found.protocol),
        target(found),
        or_dash(&found.rule),
        or_dash(&found.program),
        found.pid.unwrap_or(0),
        or_dash(&found.reason),
    )
}

fn csv(found: &Found) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let number = |value: Option<u32>| value.map_or_else(String::new, |it| it.to_string());
    csv_line(&[
        found.sequence.to_string(),
        time(found),
        found.event.clone(),
        text(&found.identity),
        text(&found.actor),
        text(&found.verdict),
        text(&found.reason),
        text(&found.rule),
        text(&found.direction),
        text(&found.protocol),
        text(&found.address),
        number(found.port.map(u32::from)),
        text(&found.program),
        number(found.pid),
        number(found.user),
        found.count.to_string(),
        found.bytes_out.to_string(),
        found.bytes_in.to_string(),
        found
            .duration_ms
            .map_or_else(String::new, |it| it.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ends_have_several_forms() {
        let peer = |network: Option<&str>, port| Peer {
            network: network.map(|network| network.parse().unwrap()),
            port,
        };
        for (text, wanted) in [
            ("10.0.0.7", peer(Some("10.0.0.7/32"), None)),
            ("10.0.0.0/8", peer(Some("10.0.0.0/8"), None)),
            ("10.0.0.7:443", peer(Some("10.0.0.7/32"), Some(443))),
            (
                "[2001:db8::1]:443",
                peer(Some("2001:db8::1/128"), Some(443)),
            ),
            (":443", peer(None, Some(443))),
        ] {
            assert_eq!(text.parse(), Ok(wanted));
        }
        assert!("example.com".parse::<Peer>().is_err());
    }
}
