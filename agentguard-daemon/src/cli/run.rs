//! `agentguard run`: a command as an identity, in a cgroup of its own.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, process::Command};

use clap::Args;

use super::{Failure, Place, unexpected};
use crate::control::{Request, Response};

#[derive(Args)]
pub(super) struct Run {
    /// As which identity.
    #[arg(long, value_name = "NAME")]
    identity: String,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// Returns only if it fails: this process becomes the command.
    pub(super) fn run(self, place: &Place) -> Result<(), Failure> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(Failure::Usage("name a command after `--`".into()));
        };
        let request = Request::Launch {
            identity: self.identity,
            reason: self.reason,
        };
        match place.ask_once(&request)? {
            Response::Launched { .. } => {}
            other => return Err(unexpected(&other)),
        }
        let error = Command::new(program).args(arguments).exec();
        let message = format!("{}: {error}", program.display());
        Err(match error.kind() {
            io::ErrorKind::NotFound => Failure::NoCommand(message),
            _ => Failure::CannotRun(message),
        })
    }
}
