//! Processes that somebody asked to run as an identity: who may ask, and what was launched.

mod caller;
mod launches;

pub use self::{
    caller::{Caller, peer_groups},
    launches::{Launch, Launches, LaunchesError},
};
use crate::policy::compiled::Launcher;

/// Whether `caller` may launch `identity`: root may, and whom a launcher permits.
#[must_use]
pub fn permits(launchers: &[Launcher], caller: &Caller, identity: &str) -> bool {
    caller.user == 0
        || launchers
            .iter()
            .any(|launcher| launcher.permits(caller.user, &caller.groups, identity))
}

#[cfg(test)]
mod tests;
