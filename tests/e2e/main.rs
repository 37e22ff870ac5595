//! One binary for all end-to-end tests.

mod lifecycle;
mod open;
mod routes;
mod scene;
