//! `agentguard daemon`: what systemd runs.

use tracing_subscriber::EnvFilter;

use super::{Failure, Place};
use crate::{
    daemon::start::{StartError, start, with_causes},
    kernel::memory,
};

pub(super) fn run(place: &Place) -> Result<(), Failure> {
    let settings = place.settings()?;
    let filter = EnvFilter::try_from_env("AGENTGUARD_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(super::wants_colour(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    memory::use_one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Internal(format!("the runtime does not start: {error}")))?;
    runtime.block_on(async {
        let daemon = start(settings).map_err(|error| failure(&error))?;
        daemon.run().await;
        Ok(())
    })
}

fn failure(error: &StartError) -> Failure {
    let text = with_causes(error);
    match error {
        StartError::AlreadyRuns(_) => Failure::Unavailable(text),
        StartError::Unsupported { .. } | StartError::Policy(_) => Failure::Settings(text),
        StartError::RegistryGone(_)
        | StartError::Registry(_)
        | StartError::Launches(_)
        | StartError::Limits(_)
        | StartError::Kernel(_)
        | StartError::Swap(_)
        | StartError::Sink { .. }
        | StartError::History(_)
        | StartError::Host { .. } => Failure::Internal(text),
    }
}
