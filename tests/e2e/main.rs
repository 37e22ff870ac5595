//! One binary for all end-to-end tests.

mod capacity;
mod churn;
mod closed;
mod conditions;
mod control;
mod crowd;
mod demo;
mod executable;
mod guest;
mod history;
mod kernel_oracle;
mod launch;
mod lifecycle;
mod limits;
mod mark;
mod metrics;
mod names;
mod open;
mod pids;
mod podman;
mod routes;
mod scene;
mod settings;
mod swap;
