//! One binary for all end-to-end tests.

mod control;
mod lifecycle;
mod names;
mod open;
mod routes;
mod scene;
