//! `agentguard detach`: the end of enforcement, said explicitly.

use clap::Args;

use super::{Failure, Place};
use crate::{
    daemon::{host, lock},
    kernel::{Kernel, Placement},
};

#[derive(Args)]
pub(super) struct Detach {
    /// Also while a daemon runs; it then records nothing more.
    #[arg(long)]
    force: bool,
}

impl Detach {
    pub(super) fn run(self, place: &Place) -> Result<(), Failure> {
        let settings = place.settings()?;
        if !nix::unistd::geteuid().is_root() {
            return Err(Failure::NotPermitted(
                "only root can end enforcement".into(),
            ));
        }
        let lock = lock::take(&settings.state_dir).map_err(|error| {
            Failure::Internal(format!("{}: {error}", settings.state_dir.display()))
        })?;
        if lock.is_none() && !self.force {
            return Err(Failure::Unavailable(
                "a daemon runs: stop it first, or use --force".into(),
            ));
        }
        let placement = Placement {
            cgroup_root: host::cgroup_root(&settings)
                .map_err(|error| Failure::Settings(error.to_string()))?,
            bpffs: settings.bpffs,
            allow_degraded: settings.allow_degraded,
        };
        let removed =
            Kernel::detach(&placement).map_err(|error| Failure::Internal(error.to_string()))?;
        if removed.is_empty() {
            say!("nothing was pinned");
        }
        for link in removed {
            say!("removed {}", link.display());
        }
        Ok(())
    }
}
