//! Limits: what is let pass is what was configured, whatever is offered.

mod bandwidth;
mod concurrent;
mod policy;
mod quota;
mod rate;
mod scope;
mod told;
