//! `agentguard doctor`: can this host enforce, and which ways stay open.

use serde::Serialize;

use super::{
    Failure, Output, Place, print_json, print_table,
    routes::{Coverage, ROUTES, Route},
};
use crate::{
    daemon::host,
    kernel::{
        object::OBJECT,
        support::{self, Support},
    },
};

#[derive(Serialize)]
struct Report {
    kernel: Support,
    checks: Vec<Check>,
    routes: &'static [Route],
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

pub(super) fn run(place: &Place, output: Output) -> Result<(), Failure> {
    let report = Report {
        kernel: support::probe(),
        checks: checks(place),
        routes: ROUTES,
    };
    if output.json {
        print_json(&report)?;
    } else {
        print(&report);
    }
    let able = report.kernel.above_floor
        && report.kernel.missing().next().is_none()
        && report.checks.iter().all(|check| check.ok);
    if able { Ok(()) } else { Err(Failure::No) }
}

fn checks(place: &Place) -> Vec<Check> {
    let check = |name, result: Result<String, String>| match result {
        Ok(detail) => Check {
            name,
            ok: true,
            detail,
        },
        Err(detail) => Check {
            name,
            ok: false,
            detail,
        },
    };
    let settings = place.settings().map_err(|error| error.to_string());
    let root = settings
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|settings| host::cgroup_root(settings).map_err(|error| error.to_string()))
        .and_then(|root| {
            host::hierarchy(&root)
                .map(|_| root.display().to_string())
                .map_err(|error| format!("{}: {error}", root.display()))
        });
    vec![
        check(
            "root",
            match nix::unistd::geteuid().is_root() {
                true => Ok("the kernel can be asked".into()),
                false => {
                    Err("run it as root: the kernel tells nobody else what it supports".into())
                }
            },
        ),
        check(
            "kernel programs",
            match OBJECT.is_empty() {
                false => Ok(format!("{} bytes", OBJECT.len())),
                true => Err("built without them: run `cargo xtask build`".into()),
            },
        ),
        check(
            "settings",
            settings.map(|_| place.config.display().to_string()),
        ),
        check("cgroup root", root),
    ]
}

fn print(report: &Report) {
    say!("kernel {}", report.kernel.release);
    if !report.kernel.above_floor {
        say!("  too old: Linux 5.15 is the oldest that is tried");
    }
    say!("");
    let yes_no = |yes| if yes { "yes" } else { "NO" }.to_owned();
    let rows: Vec<[String; 3]> = report
        .checks
        .iter()
        .map(|check| {
            [
                check.name.to_owned(),
                yes_no(check.ok),
                check.detail.clone(),
            ]
        })
        .collect();
    print_table(["CHECK", "OK", "DETAIL"], &rows);
    say!("");
    let rows: Vec<[String; 4]> = report
        .kernel
        .features
        .iter()
        .map(|feature| {
            let need = if feature.required {
                "required"
            } else {
                "optional"
            };
            let without = if feature.available {
                String::new()
            } else {
                feature.without.clone()
            };
            [
                feature.name.clone(),
                yes_no(feature.available),
                need.to_owned(),
                without,
            ]
        })
        .collect();
    print_table(["FEATURE", "HERE", "", "WITHOUT IT"], &rows);
    say!("");
    let rows: Vec<[String; 3]> = report
        .routes
        .iter()
        .map(|route| {
            let coverage = match route.coverage {
                Coverage::Closed => "closed",
                Coverage::Open => "OPEN",
            };
            let advice = route
                .advice
                .map(|advice| format!("; {advice}"))
                .unwrap_or_default();
            [
                route.id.to_owned(),
                coverage.to_owned(),
                format!("{}{advice}", route.why),
            ]
        })
        .collect();
    print_table(["ROUTE", "", "BY WHAT, OR WHY NOT"], &rows);
}
