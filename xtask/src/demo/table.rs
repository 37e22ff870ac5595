//! The live table: who did what, whether it was allowed, and by which rule.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, ErrorKind, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// OCSF: Network Activity, and its activity Close.
const NETWORK_ACTIVITY: u64 = 4001;
const CLOSE: u64 = 2;
/// OCSF: Entity Management, which tells of loaded policies.
const ENTITY_MANAGEMENT: u64 = 3004;

/// What the records of one identity add up to.
#[derive(Default)]
struct Sum {
    allowed: u64,
    denied: u64,
    bytes: u64,
}

/// Reads the daemon's event file as it grows.
pub(crate) struct Table {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
    sums: BTreeMap<String, Sum>,
}

impl Table {
    pub(crate) fn new(events: &Path) -> Self {
        Self {
            path: events.to_owned(),
            file: None,
            partial: Vec::new(),
            sums: BTreeMap::new(),
        }
    }

    /// Waits for the record that a policy is in force; `check` tells whether waiting makes sense.
    pub(crate) fn wait_for_policy(&mut self, check: impl Fn() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            check()?;
            if self
                .read()?
                .iter()
                .any(|event| event["class_uid"] == ENTITY_MANAGEMENT && event["status_id"] == 1)
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("no policy came into force")
    }

    pub(crate) fn print_head(&self) {
        println!(
            "\n{:<16} {:<13} {:<34} {:<8} RULE",
            "WHO", "PROGRAM", "WHAT", "VERDICT"
        );
    }

    pub(crate) fn print_story(&self, story: &str) {
        println!("-- {story}");
    }

    /// Prints what was recorded since the last call.
    pub(crate) fn print_news(&mut self) -> Result<()> {
        for event in self.read()? {
            if event["class_uid"] != NETWORK_ACTIVITY {
                continue;
            }
            let who = text(&event["actor"]["app_name"]);
            let sum = self.sums.entry(who.to_owned()).or_default();
            if event["activity_id"] == CLOSE {
                let bytes = |direction| event["traffic"][direction].as_u64().unwrap_or(0);
                sum.bytes += bytes("bytes_out") + bytes("bytes_in");
                continue;
            }
            let count = event["count"].as_u64().unwrap_or(1);
            let own = &event["unmapped"]["agentguard"];
            let verdict = text(&own["verdict"]);
            match verdict {
                "deny" => sum.denied += count,
                _ => sum.allowed += count,
            }
            println!(
                "{who:<16} {:<13} {:<34} {} {}",
                text(&event["actor"]["process"]["name"]),
                what(&event),
                colored(verdict),
                rule(&event),
            );
        }
        Ok(())
    }

    pub(crate) fn print_summary(&self) {
        println!(
            "\n{:<16} {:>8} {:>8} {:>8}",
            "IDENTITY", "ALLOWED", "DENIED", "BYTES"
        );
        for (who, sum) in &self.sums {
            println!(
                "{who:<16} {:>8} {:>8} {:>8}",
                sum.allowed, sum.denied, sum.bytes
            );
        }
    }

    /// The events that came since the last call.
    fn read(&mut self) -> Result<Vec<Value>> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error).context("cannot read the events"),
            }
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.partial)?;
        }
        let whole = self.partial.iter().rposition(|&byte| byte == b'\n');
        let lines: Vec<u8> = self
            .partial
            .drain(..whole.map_or(0, |end| end + 1))
            .collect();
        lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).context("an event is no JSON"))
            .collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// The connection in few words, such as `tcp [fd00::1]:443`.
fn what(event: &Value) -> String {
    let protocol = text(&event["connection_info"]["protocol_name"]);
    let destination = &event["dst_endpoint"];
    let Some(address) = destination["ip"].as_str() else {
        return format!("{protocol} socket");
    };
    let address = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    match destination["port"].as_u64() {
        Some(port) => format!("{protocol} {address}:{port}"),
        None => format!("{protocol} {address}"),
    }
}

/// The rule with its place in the policy, or the ground where no rule decided.
fn rule(event: &Value) -> String {
    let own = &event["unmapped"]["agentguard"];
    let source = own["rule_source"].as_str().map(|source| {
        let file = source.rsplit('/').next().unwrap_or(source);
        format!(" ({file})")
    });
    let name = event["firewall_rule"]["name"].as_str();
    format!(
        "{}{}",
        name.unwrap_or(text(&own["reason"])),
        source.unwrap_or_default()
    )
}

/// In colour where it goes to a terminal and nobody objects (<https://no-color.org>).
fn colored(verdict: &str) -> String {
    let objects = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if objects || !io::stdout().is_terminal() {
        return format!("{verdict:<8}");
    }
    let color = if verdict == "deny" { 31 } else { 32 };
    format!("\u{1b}[{color}m{verdict:<8}\u{1b}[0m")
}
