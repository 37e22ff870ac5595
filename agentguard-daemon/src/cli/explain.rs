//! `agentguard explain`: the verdict on one connection, with the code that the kernel runs and
//! without a packet or a daemon.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::{Failure, Output, Place, print_json, render};
use crate::{
    daemon::host,
    policy::{self, ExplainedLimit, Explanation, RANKS, Target, compiled::Location},
};

#[derive(Args)]
#[command(after_long_help = whom_selectors_mean())]
pub(super) struct Explain {
    /// Who: a name of policy, `unknown` or `unknown-agent`.
    #[arg(long)]
    identity: String,
    /// Where to: `HOST:PORT/PROTO`, such as `192.0.2.7:443/tcp`, `[2001:db8::7]:53/udp` or
    /// `192.0.2.7/icmp`. With `--from`: the local `PORT/PROTO` that is connected to.
    #[arg(long)]
    to: String,
    /// Where from, for a connection that comes in: the remote `HOST`.
    #[arg(long, value_name = "HOST")]
    from: Option<String>,
    /// Policy files or drop-in directories; by default those of the settings.
    #[arg(long = "policy", value_name = "PATH")]
    policies: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Explain {
    pub(super) fn run(self, place: &Place) -> Result<(), Failure> {
        let connection = match &self.from {
            None => target(&self.to)?.egress(),
            Some(remote) => {
                // The port that is connected to is the last `PORT/PROTO`; the host before it is us.
                let local = self
                    .to
                    .rsplit_once(':')
                    .map_or(self.to.as_str(), |(_, end)| end);
                let remote = remote.trim_start_matches('[').trim_end_matches(']');
                let end = match (local, remote.contains(':')) {
                    ("icmp", true) => format!("[{remote}]/icmp"),
                    ("icmp", false) => format!("{remote}/icmp"),
                    (_, true) => format!("[{remote}]:{local}"),
                    (_, false) => format!("{remote}:{local}"),
                };
                let target = target(&end)?;
                target.ingress(target.port)
            }
        };
        let sources = super::policy::read(&self.policies, place)?;
        let compiled = policy::load(&sources)
            .and_then(|policy| policy::compile(&policy, &host::facts(&policy)))
            .map_err(|errors| Failure::Settings(render(&errors)))?;
        let identity = compiled
            .identities
            .iter()
            .find(|identity| identity.name == self.identity)
            .ok_or_else(|| {
                let names: Vec<&str> = compiled
                    .identities
                    .iter()
                    .map(|identity| identity.name.as_str())
                    .collect();
                Failure::Usage(format!(
                    "policy has no identity `{}`; it has {}",
                    self.identity,
                    names.join(", ")
                ))
            })?;
        let explanation = policy::explain(&compiled, identity, &connection, Timestamp::now());
        if self.output.json {
            print_json(&explanation)?;
        } else {
            say!("{}", sentence(&explanation));
            for limit in &explanation.limits {
                say!("  {}", limit_line(limit));
            }
        }
        if explanation.verdict == "deny" {
            Err(Failure::No)
        } else {
            Ok(())
        }
    }
}

fn whom_selectors_mean() -> String {
    format!(
        "Whom a process is: of all selectors that match it the highest rank wins,\n\n  {RANKS}\n\n\
         then the nearest cgroup, then the selector with more keys, then the narrower globs.\n\
         `agentguard ps` says which selector decided, and each event which condition failed."
    )
}

fn target(text: &str) -> Result<Target, Failure> {
    text.parse()
        .map_err(|error: policy::TargetError| Failure::Usage(error.to_string()))
}

/// `connections 20/s burst 40 of rule r.egress[0], for each process`.
fn limit_line(limit: &ExplainedLimit) -> String {
    let mut line = format!("{} {}", limit.limit, limit.configured);
    if let Some(rule) = &limit.rule {
        line += &format!(" of rule {rule}");
    }
    if limit.per != "identity" {
        line += &format!(", for each {}", limit.per);
    }
    line
}

fn sentence(explanation: &Explanation) -> String {
    let Explanation {
        identity,
        verdict,
        reason,
        rule,
        location,
        ..
    } = explanation;
    match (rule, location) {
        (Some(rule), Some(Location { file, line, .. })) => {
            format!(
                "{verdict}: {identity}, by {rule} at {}:{line}",
                file.display()
            )
        }
        _ => format!("{verdict}: {identity}, {reason}"),
    }
}
