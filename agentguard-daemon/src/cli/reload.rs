//! `agentguard reload`: the policy anew, whole or not at all.

use clap::Args;

use super::{Failure, Place, unexpected};
use crate::control::{Request, Response};

#[derive(Args)]
pub(super) struct Reload {
    /// Return when the new policy is in force, or with why it is not.
    #[arg(long)]
    wait: bool,
}

impl Reload {
    pub(super) fn run(self, place: &Place) -> Result<(), Failure> {
        match place.ask_once(&Request::Reload { wait: self.wait })? {
            Response::Accepted {} => Ok(()),
            Response::Reloaded { generation } => {
                say!("generation {generation} is in force");
                Ok(())
            }
            Response::Rejected { generation, detail } => {
                eprintln!("{detail}");
                say!("refused: generation {generation} stays in force");
                Err(Failure::No)
            }
            other => Err(unexpected(&other)),
        }
    }
}
