//! One binary for all end-to-end tests.

mod closed;
mod kernel_oracle;
mod lifecycle;
mod routes;
mod swap;
