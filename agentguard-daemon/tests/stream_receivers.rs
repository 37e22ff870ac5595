//! Syslog, RELP and the journal against the programs that receive them: rsyslog, syslog-ng and journald.
//!
//! Each gets 10,000 records, hostile ones among them, while the receiver is killed, started again and
//! stalled. What is confirmed (RELP) must all be there. What is not confirmed must be there where nobody
//! was killed; where somebody was, only records in flight may be missing: one run without a gap.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "what was lost is told, too")]

#[path = "stream_receivers/certificates.rs"]
mod certificates;
#[path = "stream_receivers/drive.rs"]
mod drive;
#[path = "stream_receivers/journald.rs"]
mod journald;
#[path = "stream_receivers/program.rs"]
mod program;
#[path = "stream_receivers/relp.rs"]
mod relp;
#[path = "stream_receivers/server.rs"]
mod server;
#[path = "stream_receivers/syslog.rs"]
mod syslog;
