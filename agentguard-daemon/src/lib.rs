//! The userspace side of agentguard: `hook → identity → policy → verdict → audit → sink`.

pub mod audit;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod delivery;
mod file;
pub mod history;
pub mod identity;
pub mod kernel;
pub mod limit;
pub mod metrics;
pub mod policy;
pub mod sink;
pub mod size;
