//! One binary for all end-to-end tests.

mod closed;
mod control;
mod demo;
mod executable;
mod kernel_oracle;
mod lifecycle;
mod limits;
mod metrics;
mod names;
mod open;
mod routes;
mod scene;
mod settings;
mod swap;
