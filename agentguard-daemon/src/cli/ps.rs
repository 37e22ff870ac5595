//! `agentguard ps`: which cgroups belong to whom, and by which selector.

use super::{Failure, Output, Place, print_json, print_table, unexpected};
use crate::{
    control::{Alternative, Request, Response, Why},
    policy::compiled::{Class, Location},
};

/// Characters of a cgroup path that are shown: it may have thousands, and widens the column.
const PATH_WIDTH: usize = 256;

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
                shorten(&cgroup.path),
                reason(&cgroup.why) + &alternatives(&cgroup.alternatives),
            ]
        })
        .collect();
    print_table(["IDENTITY", "CLASS", "PROCESSES", "CGROUP", "WHY"], &rows);
    Ok(())
}

/// `path`, which is escaped already, or what of it is shown.
fn shorten(path: &str) -> String {
    match path.char_indices().nth(PATH_WIDTH) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path.to_owned(),
    }
}

fn reason(why: &Why) -> String {
    match why {
        Why::Selector {
            selector,
            location: Location { file, line, .. },
        } => {
            format!("{selector} at {}:{line}", file.display())
        }
        Why::Launch => "started by `agentguard run`".into(),
        Why::AgentsSlice => "the slice of the agents".into(),
        Why::BuiltIn => "built in, no selector matches".into(),
        Why::Inherited { from } => format!("as {}", shorten(from)),
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
