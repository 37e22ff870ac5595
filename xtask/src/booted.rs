//! Runs tests that need systemd as the first process: Debian's, booted in namespaces of its own on
//! the running kernel, without a virtual machine.

mod container;
pub(crate) mod init;
mod mirror;
mod root;

use anyhow::Result;

use self::container::Container;
use crate::{build, sandbox::CgroupTree, setup, tally::Tally};

/// Boots systemd, runs the tests that need it, and takes it down.
///
/// # Errors
///
/// Where systemd cannot be booted. That tests failed is told by the tally.
pub(crate) fn test(tally: &mut Tally) -> Result<()> {
    setup::container_tools()?;
    let root = root::stage()?;
    let tests = build::test_program("agentguard-daemon", "systemd")?;
    // Declared first, dropped last: it removes the cgroups of a container that has ended. The name is
    // one that the end-to-end tests know: they remove what a run that was killed has left.
    let cgroup = CgroupTree::new("test")?;
    let container = Container::boot(&cgroup, &root, &tests)?;
    tally.run(&mut container.unit(init::TESTS, &["--ignored", "--test-threads=1"]))
}
