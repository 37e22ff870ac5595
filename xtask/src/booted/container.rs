//! A running systemd with its processes.

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::sandbox::CgroupTree;

/// It takes seconds at most, but the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(180);

/// After this time tests are taken to hang; they take a few seconds.
const TESTS_END: &str = "--property=RuntimeMaxSec=300";

/// A booted systemd; dropping it ends it.
pub(crate) struct Container {
    /// The parent of the container's first process, which dies with it.
    parent: Child,
    /// The container's first process, as the host counts.
    first: String,
}

impl Container {
    /// Boots systemd in a cgroup and waits until it has started everything.
    pub(crate) fn boot(cgroup: &CgroupTree, root: &Path, tests: &Path) -> Result<Self> {
        let began = Instant::now();
        let this = env::current_exe().context("cannot find this program")?;
        let parent = Command::new("sh")
            // A new cgroup namespace begins where the process is that makes it.
            .args(["-c", "echo 0 >\"$0\" && exec \"$@\""])
            .arg(cgroup.top().join("cgroup.procs"))
            // What it starts ends with this program, however that ends.
            .args(["setpriv", "--pdeathsig=KILL"])
            .args(["unshare", "--fork", "--kill-child", "--propagation=private"])
            .args(["--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts"])
            .arg(this)
            .arg("boot")
            .args([root, tests])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start a container")?;
        let mut container = Self {
            parent,
            first: String::new(),
        };
        container.wait_for_systemd(cgroup.top(), began + PATIENCE)?;
        container.wait_for_units(began + PATIENCE)?;
        println!(
            "booted: systemd runs after {:.1} s",
            began.elapsed().as_secs_f32()
        );
        Ok(container)
    }

    /// A command that runs a program as a unit of the container.
    pub(crate) fn unit(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.inside("systemd-run");
        command
            .args(["--wait", "--pipe", "--quiet", "--collect", TESTS_END])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Waits until systemd has taken over its cgroup, which tells its process.
    fn wait_for_systemd(&mut self, cgroup: &Path, deadline: Instant) -> Result<()> {
        let scope = cgroup.join("init.scope/cgroup.procs");
        loop {
            let processes = fs::read_to_string(&scope).unwrap_or_default();
            if let Some(first) = processes.lines().next() {
                first.clone_into(&mut self.first);
                return Ok(());
            }
            self.check(deadline)?;
        }
    }

    fn wait_for_units(&mut self, deadline: Instant) -> Result<()> {
        loop {
            let output = self
                .inside("systemctl")
                .arg("is-system-running")
                .output()
                .context("cannot start nsenter")?;
            match String::from_utf8_lossy(&output.stdout).trim() {
                "running" => return Ok(()),
                "degraded" | "maintenance" => {
                    let failed = self.inside("systemctl").arg("--failed").output()?;
                    let failed = String::from_utf8_lossy(&failed.stdout).into_owned();
                    bail!("systemd started, but not all of its units:\n{failed}");
                }
                _ => self.check(deadline)?,
            }
        }
    }

    /// Lets a moment pass; an error if there is nothing to wait for.
    fn check(&mut self, deadline: Instant) -> Result<()> {
        if let Some(status) = self.parent.try_wait()? {
            bail!("systemd did not boot in a container: it ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("systemd did not boot in a container within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// A command in all namespaces of the container.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.first])
            .args(["--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts"])
            .args(["--", program]);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Its child dies with it, and all of the container with that.
        let ended = self.parent.kill().and_then(|()| self.parent.wait());
        if let Err(error) = ended {
            eprintln!("cannot end the container: {error}");
        }
    }
}
