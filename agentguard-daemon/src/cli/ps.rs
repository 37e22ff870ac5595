//! `agentguard ps`: which cgroups belong to whom, and by which selector.

use super::{Failure, Output, Place, print_json, print_table, unexpected};
use crate::{
    audit::escape::escape,
    control::{Alternative, Request, Response, Why},
    policy::compiled::{Class, Location},
};

/// Bytes of a cgroup path that are shown.
const PATH_BYTES: usize = 256;

pub(super) fn run(place: &Place, output: Output) -> Result<(), Failure> {
    let cgroups = match place.ask_once(&Request::Ps {})? {
        Response::Cgroups { cgroups } => cgroups,
        other => return Err(unexpected(&other)),
    };
    if output.json {
        return print_json(&cgroups);
    }
    let rows: Vec<[String; 5]> = cgroups
        .iter()
        .map(|cgroup| {
            [
                cgroup.identity.clone(),
                name_of(cgroup.class),
                cgroup.pids.len().to_string(),
                escape(cgroup.path.as_bytes(), PATH_BYTES).text,
                reason(&cgroup.why) + &alternatives(&cgroup.alternatives),
            ]
        })
        .collect();
    print_table(["IDENTITY", "CLASS", "PROCESSES", "CGROUP", "WHY"], &rows);
    Ok(())
}

fn reason(why: &Why) -> String {
    match why {
        Why::Selector {
            selector,
            location: Location { file, line, .. },
        } => {
            format!("{selector} at {}:{line}", file.display())
        }
        Why::AgentsSlice => "the slice of the agents".into(),
        Why::BuiltIn => "built in, no selector matches".into(),
        Why::Inherited { from } => {
            format!("as {}", escape(from.as_bytes(), PATH_BYTES).text)
        }
        Why::Default => "no selector matches".into(),
    }
}

fn alternatives(alternatives: &[Alternative]) -> String {
    alternatives
        .iter()
        .map(|other| format!("; {} where {}", other.identity, other.when.join(", ")))
        .collect()
}

/// A class as policy writes it.
pub(super) fn name_of(class: Class) -> String {
    class.name().into()
}
