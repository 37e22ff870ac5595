//! `agentguard events`: the last audit events, and those to come.

use clap::Args;

use super::{Failure, Place, unexpected};
use crate::control::{Request, Response, VerdictName};

#[derive(Args)]
pub(super) struct Events {
    /// Go on with those to come.
    #[arg(short, long)]
    follow: bool,
    /// Of this identity only.
    #[arg(long)]
    identity: Option<String>,
    /// With this verdict only.
    #[arg(long)]
    verdict: Option<VerdictName>,
    /// Print OCSF, one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(super) fn run(self, place: &Place) -> Result<(), Failure> {
        let request = Request::Events {
            follow: self.follow,
            identity: self.identity,
            verdict: self.verdict,
            json: self.json,
        };
        for answer in place.ask(&request)? {
            match answer? {
                Response::Event { line } => say!("{line}"),
                Response::End {} => return Ok(()),
                other => return Err(unexpected(&other)),
            }
        }
        Err(Failure::Unavailable("the daemon stopped".into()))
    }
}
