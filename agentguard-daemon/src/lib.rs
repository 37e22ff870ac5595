//! The userspace side of agentguard: `hook → identity → policy → verdict → audit → sink`.

pub mod audit;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
mod file;
pub mod identity;
pub mod kernel;
pub mod limit;
pub mod metrics;
pub mod policy;
pub mod sink;
