//! One binary for all end-to-end tests.

mod control;
mod demo;
mod executable;
mod lifecycle;
mod limits;
mod names;
mod open;
mod routes;
mod scene;
mod settings;
