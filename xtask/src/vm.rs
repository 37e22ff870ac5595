//! Runs the end-to-end tests on older kernels, each in a virtual machine without hardware's help.

pub(crate) mod guest;
mod initramfs;
mod kernel;

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::Result;

use self::{initramfs::Initramfs, kernel::Kernel};
use crate::{setup, tally::Tally};

/// After this many seconds a guest is taken to hang. A run of all tests takes a fraction of that.
const PATIENCE_SECONDS: &str = "1800";

/// What is tested unless somebody asks for else. To start a daemon takes an emulated machine ten
/// seconds or more, most of it for the verifier, so this is one test for each thing that may differ
/// between kernels.
const TESTS: [&str; 15] = [
    "guest::a_clock_that_is_set_moves_the_ends_of_quotas_and_nothing_else",
    "lifecycle::a_new_cgroup_is_labelled_as_it_appears_and_unknown_agents_are_refused",
    "lifecycle::an_established_flow_ends_when_its_identity_expires_with_no_daemon_alive",
    "lifecycle::an_established_flow_ends_with_its_right",
    "lifecycle::enforcement_outlives_the_daemon_until_it_is_detached",
    "lifecycle::every_event_is_delivered_folded_or_counted_as_dropped",
    "limits::concurrent::flows_from_before_the_daemon_are_counted",
    "limits::quota::all_packets_end_where_that_is_configured",
    "limits::scope::each_process_has_its_own",
    "routes::origins::tcp_socket_passed_in",
    "routes::raw::ping",
    "routes::tcp::connect",
    "routes::tcp::multipath",
    "routes::udp::routing_header",
    "routes::udp::sendmsg_by_ring",
];

/// How the names of tests begin that run in a virtual machine and nowhere else: all of them are among
/// [`TESTS`].
pub(crate) const ONLY_THERE: &str = "guest::";

/// Runs tests on these kernels, or on every kernel that is kept working; `filter` goes to them.
pub(crate) fn run(kernels: &[String], filter: &[String]) -> Result<()> {
    setup::virtual_machine_tools()?;
    let initramfs = Initramfs::stage()?;
    let known = kernel::SERIES.map(str::to_owned);
    let series = if kernels.is_empty() { &known } else { kernels };
    // Two guests for each kernel: in Linux 6.1 a test takes three times as long as in 6.12.
    let parts: Vec<Vec<&str>> = if filter.is_empty() {
        let halves = TESTS.chunks(TESTS.len().div_ceil(2));
        halves.map(|tests| [&["--exact"], tests].concat()).collect()
    } else {
        vec![filter.iter().map(String::as_str).collect()]
    };
    let mut machines = Vec::new();
    for series in series {
        let kernel = Kernel::fetch(series)?;
        let archive = initramfs.pack(&kernel)?;
        println!("vm: Linux {}", kernel.release);
        for tests in &parts {
            let arguments = [&["--test-threads=1"], &tests[..]].concat();
            machines.push(machine(&kernel, &archive, &arguments));
        }
    }
    // Each has one thread, and most of a test's time goes into emulation: two side by side take half as
    // long. Their lines come mixed.
    let machines = Mutex::new(machines.iter_mut());
    let next = || machines.lock().expect("no holder panics").next();
    let work = || {
        let mut tally = Tally::default();
        while let Some(machine) = next() {
            tally.run_until(machine, Some(guest::FAREWELL))?;
        }
        Ok(tally)
    };
    let tallies = thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers
            .map(|worker| worker.join().expect("a tally does not panic"))
            .into_iter()
            .collect::<Result<Vec<_>>>()
    })?;
    // Each says what it came to, also after one that failed.
    tallies
        .iter()
        .map(Tally::conclude)
        .fold(Ok(()), Result::and)
}

/// A virtual machine that starts the guest and shows its console.
fn machine(kernel: &Kernel, archive: &Path, arguments: &[&str]) -> Command {
    // An oops ends the guest, and a guest that ends does not begin again.
    let console = "console=ttyS0 quiet oops=panic panic=-1";
    let parameters = format!("{console} rdinit=/init -- guest {}", arguments.join(" "));
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", PATIENCE_SECONDS, "qemu-system-x86_64"])
        .args(["-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "2G"])
        // One thread for all of the guest's CPUs: with one each, cgroup programs that come and go
        // under traffic can bring a guest of Linux 6.12 down.
        .args(["-accel", "tcg,thread=single"])
        .args(["-nodefaults", "-nographic", "-no-reboot"])
        .args(["-serial", "stdio", "-append", &parameters, "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{ONLY_THERE, TESTS};
    use crate::workspace;

    #[test]
    fn every_chosen_test_exists() {
        for test in TESTS {
            let (module, name) = test.rsplit_once("::").expect("tests live in modules");
            let file = format!("tests/e2e/{}.rs", module.replace("::", "/"));
            let source = fs::read_to_string(workspace::root().join(&file)).expect("it is read");
            let line = format!("fn {name}() {{");
            assert!(source.contains(&line), "{file} has no {name}");
        }
    }

    #[test]
    fn every_test_that_runs_only_here_does() {
        let text =
            fs::read_to_string(workspace::root().join("tests/e2e/guest.rs")).expect("it is read");
        let mut lines = text.lines();
        let mut names = Vec::new();
        while let Some(line) = lines.next() {
            if line == "#[test]" {
                let name = lines.next().and_then(|line| line.strip_prefix("fn "));
                let name = name.and_then(|line| line.split('(').next());
                let name = name.expect("a test is a function");
                names.push(format!("{ONLY_THERE}{name}"));
            }
        }
        assert!(!names.is_empty());
        for name in names {
            assert!(TESTS.contains(&name.as_str()), "{name} runs nowhere");
        }
    }
}
