//! Audit: a checked kernel event becomes an enriched record, repeats are folded, and each record
//! leaves as one OCSF line for the sinks.
//!
//! The path of one event: [`Trail::receive`] → [`names`] (who, and by which rule) →
//! [`record::ConnectionRecord`] → [`fold`] → [`accounting`] → [`ocsf`] → `lines`, which the caller
//! hands to [`crate::sink`].
//!
//! ```
//! # use agentguard_daemon::audit::{AuditRecord, BootClock, Host, Process, Program, Trail, Untrusted};
//! # fn example(events: Vec<agentguard_common::audit::AuditEvent>, now_ns: u64) -> Vec<String> {
//! # let host = Host { version: "0.1.0".into(), hostname: "host".into(), boot_id: "b".into() };
//! let mut lines = Vec::new();
//! let mut trail = Trail::new(host, uuid::Uuid::now_v7());
//! let clock = BootClock::new("2026-01-01T00:00:00Z".parse().unwrap());
//! trail.note(AuditRecord::DaemonStarted { time: clock.wall(now_ns) }, &mut lines);
//! for event in events {
//!     let exe = Some(Untrusted::new(b"/usr/bin/curl"));
//!     let program = Program { exe, ..Program::default() };
//!     let process = Process { program: Some(program.into()), ..Process::default() };
//!     trail.receive(event, process, clock, now_ns, &mut lines);
//! }
//! trail.flush_due(now_ns, &mut lines); // Again at `trail.next_deadline()`.
//! trail.flush_all(&mut lines); // At stop.
//! # lines
//! # }
//! ```
//!
//! Nothing here reads a file, a socket or a clock: the caller passes bytes and times.

#![forbid(unsafe_code)]

pub mod accounting;
pub mod escape;
pub mod fold;
pub mod names;
pub mod ocsf;
pub mod recent;
pub mod record;
pub mod render;
pub mod trail;
mod words;

pub use self::{
    accounting::{Accounts, Balance},
    escape::Untrusted,
    names::{Actor, Names},
    ocsf::Host,
    recent::{Entry, Filter, Recent},
    record::{
        Ancestor, AuditRecord, BootClock, Container, EventsLost, Launched, LimitName, LimitNews,
        LimitReport, Loss, Place, PolicyLoaded, PolicyRejected, Process, Program, Unmet,
    },
    trail::Trail,
};
