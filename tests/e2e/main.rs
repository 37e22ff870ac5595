//! One binary for all end-to-end tests.

mod control;
mod demo;
mod lifecycle;
mod limits;
mod metrics;
mod names;
mod open;
mod routes;
mod scene;
mod settings;
