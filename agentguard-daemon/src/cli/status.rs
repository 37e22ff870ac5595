//! `agentguard status`: how the daemon is, and what each identity did.

use super::{Failure, Output, Place, print_json, print_table, printable, unexpected};
use crate::control::{Request, Response, Status, Totals};

pub(super) fn run(place: &Place, output: Output) -> Result<(), Failure> {
    let status = match place.ask_once(&Request::Status {})? {
        Response::Status(status) => status,
        other => return Err(unexpected(&other)),
    };
    if output.json {
        return print_json(&status);
    }
    print_head(&status);
    let rows: Vec<[String; 8]> = status
        .identities
        .iter()
        .map(|identity| {
            let [allowed, denied, would_deny, out, r#in] = cells(&identity.counters);
            let class = super::ps::name_of(identity.class);
            [
                identity.name.clone(),
                class,
                allowed,
                denied,
                would_deny,
                out,
                r#in,
                printable(identity.owner.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    say!("");
    print_table(
        [
            "IDENTITY",
            "CLASS",
            "ALLOWED",
            "DENIED",
            "WOULD-DENY",
            "BYTES OUT",
            "BYTES IN",
            "OWNER",
        ],
        &rows,
    );
    say!("");
    let rows: Vec<[String; 6]> = status
        .totals
        .iter()
        .map(|total| {
            let [allowed, denied, would_deny, out, r#in] = cells(&total.counters);
            [
                super::ps::name_of(total.class),
                allowed,
                denied,
                would_deny,
                out,
                r#in,
            ]
        })
        .collect();
    print_table(
        [
            "CLASS",
            "ALLOWED",
            "DENIED",
            "WOULD-DENY",
            "BYTES OUT",
            "BYTES IN",
        ],
        &rows,
    );
    say!("");
    say!("automation: {}", sentence(&status.automation));
    say!("people: {}", sentence(&status.people));
    Ok(())
}

fn sentence(totals: &Totals) -> String {
    format!(
        "{} flows allowed, {} denied, {} would be denied, {} bytes out, {} bytes in",
        totals.allowed, totals.denied, totals.would_deny, totals.bytes_out, totals.bytes_in
    )
}

fn print_head(status: &Status) {
    say!(
        "agentguard {}: pid {}, up {} s, generation {} on {}, {} programs",
        status.version,
        status.pid,
        status.uptime_seconds,
        status.generation,
        printable(&status.cgroup_root.to_string_lossy()),
        status.programs.len()
    );
    for file in &status.policy_files {
        say!("policy: {}", printable(&file.to_string_lossy()));
    }
    for sink in &status.sinks {
        let sink = serde_json::to_string(sink).unwrap_or_default();
        say!("sink: {sink}");
    }
    for missing in &status.degraded {
        say!("degraded: {missing}");
    }
    if let Some(rejection) = &status.last_rejection {
        say!("the last policy was refused:\n{rejection}");
    }
    let lost = [
        status.events_lost,
        status.cgroup_events_lost,
        status.process_labels_lost,
        status.process_events_lost,
    ];
    if lost.iter().any(|&count| count > 0) {
        let [events, cgroups, labels, execs] = lost;
        say!(
            "lost: {events} events, {cgroups} reports of cgroups, {labels} labels of processes, {execs} reports of execs"
        );
    }
}

fn cells(totals: &Totals) -> [String; 5] {
    [
        totals.allowed,
        totals.denied,
        totals.would_deny,
        totals.bytes_out,
        totals.bytes_in,
    ]
    .map(|number| number.to_string())
}
