//! One line for people: who did what, allowed or denied, and by which rule.

use std::fmt::Write;

use agentguard_common::audit::EventKind;

use super::{
    escape::escape,
    record::{AuditRecord, ConnectionRecord, EventsLost, Launched, LimitNews, LimitReport, Loss},
    words,
};

/// Longest text of one column, in bytes.
const COLUMN: usize = 64;

/// `record` as one line without its newline, safe to print on a terminal.
#[must_use]
pub fn terminal_line(record: &AuditRecord) -> String {
    let time = record.time().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
    match record {
        AuditRecord::Connection(record) => format!("{time}  {}", connection(record)),
        AuditRecord::PolicyLoaded(record) => format!(
            "{time}  policy generation {} in force: {} identities, {} rules",
            record.generation, record.identities, record.rules
        ),
        AuditRecord::PolicyRejected(record) => format!(
            "{time}  policy rejected with {} errors, generation {} stays in force: {}",
            record.errors,
            record.generation,
            text(record.detail.as_bytes())
        ),
        AuditRecord::Launched(record) => format!("{time}  {}", launch(record)),
        AuditRecord::Limit(record) => format!("{time}  {}", limit(record)),
        AuditRecord::DaemonStarted { .. } => format!("{time}  agentguard started"),
        AuditRecord::DaemonStopped { .. } => format!("{time}  agentguard stopped"),
        AuditRecord::EventsLost(record) => format!("{time}  {}", loss(record)),
    }
}

fn connection(record: &ConnectionRecord) -> String {
    let event = &record.event;
    let rule = record.rule.as_ref().map_or("-", |rule| &rule.name);
    let exe = record.process.exe();
    let program = exe.map_or_else(
        || text(record.comm()),
        |exe| exe.file_name().escape(COLUMN).text,
    );
    let what = match event.kind {
        EventKind::Closed => "close",
        EventKind::Socket => "socket",
        EventKind::Connection | EventKind::Bind => words::of_direction(event.direction),
    };
    let mut line = format!(
        "{:<20} {:<7} {:<10} {what:<7} {:<5} {:<24} {:<22} {program}[{}] {}",
        text(record.actor.name.as_bytes()),
        words::of_class(record.actor.class),
        words::of_verdict(event.verdict),
        words::of_protocol(event.protocol),
        words::of_target(event),
        text(rule.as_bytes()),
        event.pid,
        event.reason.name(),
    );
    if record.count > 1 {
        // Writing to a `String` cannot fail.
        write!(line, " x{}", record.count).ok();
    }
    line
}

fn launch(record: &Launched) -> String {
    let identity = record.identity.escape(COLUMN).text;
    let program = record.comm.escape(COLUMN).text;
    let who = format!("{program}[{}] of user {}", record.pid, record.user);
    let reason = record.reason.as_ref().map_or_else(String::new, |reason| {
        format!(", reason: {}", reason.escape(COLUMN).text)
    });
    match &record.outcome {
        Ok(_) => format!("{who} launched as {identity}{reason}"),
        Err(why) => format!(
            "{who} not launched as {identity}: {}{reason}",
            text(why.as_bytes())
        ),
    }
}

fn limit(record: &LimitReport) -> String {
    let name = &record.limit;
    let whose = text(name.actor.name.as_bytes());
    let rule = name.rule.as_ref().map_or_else(String::new, |rule| {
        format!(" of rule {}", text(rule.name.as_bytes()))
    });
    let limit = format!("{} {}{rule}", name.kind, name.configured);
    match record.news {
        LimitNews::Reached {
            count, is_audit, ..
        } => {
            let what = if is_audit { "would refuse" } else { "refused" };
            format!("{whose} is over its limit {limit}: {what} x{count}")
        }
        LimitNews::Used { percent, .. } => format!("{whose} has used {percent} % of {limit}"),
    }
}

fn loss(record: &EventsLost) -> String {
    let lost = record.lost;
    match &record.loss {
        Loss::RingFull(actor) => {
            let name = text(actor.name.as_bytes());
            format!("{lost} events of {name} lost: ring full")
        }
        Loss::Undecodable => format!("{lost} events lost: they did not decode"),
        Loss::Sink(name) => format!("{lost} lines lost by sink {}", text(name.as_bytes())),
    }
}

fn text(bytes: &[u8]) -> String {
    escape(bytes, COLUMN).text
}
