//! Transports that make requests, against receivers that are none of ours: 10,000 records each, with
//! the receiver killed, begun anew and stalled in between.
//!
//! All of them are acknowledged, so that nothing may be missing. What was on its way when a receiver was
//! killed or stalled may arrive again, as the same record.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "figures are shown where tests fail")]

#[path = "http_receivers/driver.rs"]
mod driver;
#[path = "http_receivers/kafka.rs"]
mod kafka;
#[path = "http_receivers/otlp.rs"]
mod otlp;
#[path = "http_receivers/receiver.rs"]
mod receiver;
#[path = "http_receivers/splunk.rs"]
mod splunk;
#[path = "http_receivers/webhook.rs"]
mod webhook;
