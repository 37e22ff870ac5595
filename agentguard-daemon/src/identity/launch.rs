//! Processes that somebody asked to run as an identity: who may ask, and what was launched.

mod caller;
mod launches;

pub use self::{
    caller::Caller,
    launches::{Launch, Launches, LaunchesError},
};
use crate::policy::compiled::Location;

/// Who may launch what, besides root.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// Any of these users.
    pub users: Vec<u32>,
    /// Or who is in any of these groups.
    pub groups: Vec<u32>,
    /// Any of these matches the name of the identity.
    pub identities: Vec<globset::GlobMatcher>,
    /// Where it is written.
    pub location: Location,
}

impl Launcher {
    /// Whether `user`, who is in `groups`, may launch `identity`.
    #[must_use]
    pub fn permits(&self, user: u32, groups: &[u32], identity: &str) -> bool {
        let who = self.users.contains(&user) || groups.iter().any(|id| self.groups.contains(id));
        who && self.identities.iter().any(|glob| glob.is_match(identity))
    }
}

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
