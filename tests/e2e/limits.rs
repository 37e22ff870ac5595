//! Limits: what is let pass is what was configured, whatever is offered.

mod bandwidth;
mod concurrent;
pub(crate) mod policy;
pub(crate) mod quota;
mod rate;
mod scope;
mod told;
