//! One binary for all end-to-end tests.

mod closed;
mod conditions;
mod control;
mod demo;
mod executable;
mod kernel_oracle;
mod launch;
mod lifecycle;
mod limits;
mod mark;
mod metrics;
mod names;
mod open;
mod podman;
mod routes;
mod scene;
mod settings;
mod swap;
