//! Audit: a checked kernel event becomes an enriched record, repeats are folded, and each record
//! leaves as one OCSF line for the sinks.
//!
//! The path of one event: [`Trail::receive`] → [`names`] (who, and by which rule) →
//! [`record::ConnectionRecord`] → [`fold`] → [`accounting`] → the record, which the caller hands to
//! [`crate::history`]. That encodes it ([`ocsf`]) at its place in the [`chain`].
//!
//! ```
//! # use agentguard_daemon::audit::{AuditRecord, BootClock, Process, Program, Trail, Untrusted};
//! # fn example(events: Vec<agentguard_common::audit::AuditEvent>, now_ns: u64) -> Vec<AuditRecord> {
//! let mut records = Vec::new();
//! let mut trail = Trail::default();
//! let clock = BootClock::new("2026-01-01T00:00:00Z".parse().unwrap());
//! trail.note(AuditRecord::DaemonStarted { time: clock.wall(now_ns) }, &mut records);
//! for event in events {
//!     let exe = Some(Untrusted::new(b"/usr/bin/curl"));
//!     let program = Program { exe, ..Program::default() };
//!     let process = Process { program: Some(program.into()), ..Process::default() };
//!     trail.receive(event, process, clock, now_ns, &mut records);
//! }
//! trail.flush_due(now_ns, &mut records); // Again at `trail.next_deadline()`.
//! trail.flush_all(&mut records); // At stop.
//! # records
//! # }
//! ```
//!
//! Nothing here reads a file, a socket or a clock: the caller passes bytes and times.

#![forbid(unsafe_code)]

pub mod accounting;
pub mod chain;
pub mod checkpoint;
pub mod escape;
pub mod fold;
pub mod names;
pub mod ocsf;
pub mod record;
pub mod sequences;
pub mod trail;
pub(crate) mod words;

pub use self::{
    accounting::{Accounts, Balance},
    checkpoint::{Checkpoint, Signer},
    escape::Untrusted,
    names::{Actor, Names},
    ocsf::{Encoded, Encoder, Host},
    record::{
        Ancestor, AuditRecord, BootClock, Container, EventsLost, HistoryFilling, Launched,
        LimitName, LimitNews, LimitReport, Loss, Place, PolicyLoaded, PolicyRejected, Process,
        Program, RecordsRemoved, Unmet,
    },
    trail::Trail,
};
