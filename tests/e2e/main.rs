//! One binary for all end-to-end tests.

mod kernel_oracle;
mod lifecycle;
mod routes;
