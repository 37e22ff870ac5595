//! A process that plays the agent: a probe in a cgroup, a network namespace and a user.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use nix::sched::{CloneFlags, setns};

use crate::{
    cgroup::Cgroup,
    network::Netns,
    probe::{Report, Spec, Talk},
};

/// Where probes are started.
#[derive(Clone, Copy, Debug)]
pub struct Agent<'a> {
    /// Their cgroup at the time of `exec`.
    pub cgroup: &'a Cgroup,
    /// Their network namespace.
    pub netns: &'a Netns,
}

impl Agent<'_> {
    /// Runs one probe to its end.
    ///
    /// # Panics
    ///
    /// If the probe dies without a report.
    #[must_use]
    pub fn run(&self, spec: &Spec) -> Report {
        self.start(spec).report()
    }

    /// Starts a probe.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, spec: &Spec) -> Probe {
        let spec = serde_json::to_string(spec).expect("a spec is plain data");
        let mut command = Command::new(probe_path());
        command.arg("route").arg(spec);
        Probe::from(self.spawn(command))
    }

    /// Starts a probe that keeps a flow: it announces the flow, and then the end of each exchange
    /// that [`Probe::resume`] asks for. [`Probe::finish`] has it close in good order.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn talk(&self, talk: &Talk) -> Probe {
        let talk = serde_json::to_string(talk).expect("a talk is plain data");
        let mut command = Command::new(probe_path());
        command.arg("talk").arg(talk);
        Probe::from(self.spawn(command))
    }

    /// Starts any command there, with its stdin and stdout piped.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(&self, command: Command) -> Child {
        let mut command = self.place(command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"))
    }

    fn place(&self, mut command: Command) -> Command {
        let door = self.cgroup.door();
        let netns: OwnedFd = self
            .netns
            .as_fd()
            .try_clone_to_owned()
            .expect("copy the namespace's descriptor");
        // SAFETY: the closure makes system calls on descriptors it owns, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                die_with_parent()?;
                enter(&door)?;
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(())
            })
        };
        command
    }
}

/// A running probe. Dropping it kills it.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl From<Child> for Probe {
    /// Of a child whose stdin and stdout are piped.
    fn from(mut child: Child) -> Self {
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self {
            child,
            stdin,
            stdout,
        }
    }
}

impl Probe {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it pauses; says on which port it listens, if it does.
    ///
    /// # Panics
    ///
    /// If it fails before.
    pub fn wait_ready(&mut self) -> u16 {
        match self.report() {
            Report::Ready { port } => port,
            report @ (Report::Done | Report::Failed { .. }) => {
                panic!("the probe did not get ready: {report:?}")
            }
        }
    }

    /// Lets it go on after a pause.
    ///
    /// # Panics
    ///
    /// If it is dead.
    pub fn resume(&mut self) {
        self.stdin.write_all(b"\n").expect("the probe waits");
    }

    /// Has a talk closed in good order, and waits until it is.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn finish(&mut self) {
        self.stdin.write_all(b"close\n").expect("the probe waits");
        assert_eq!(self.report(), Report::Done);
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    ///
    /// # Panics
    ///
    /// If it cannot be killed.
    pub fn kill(mut self) {
        self.child.kill().expect("kill the probe");
        self.child.wait().expect("wait for the probe");
    }

    /// Its next report.
    ///
    /// # Panics
    ///
    /// If it dies without one.
    pub fn report(&mut self) -> Report {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("read from a probe");
        serde_json::from_str(&line).unwrap_or_else(|error| {
            let status = self.child.wait();
            panic!("the probe said {line:?} ({error}) and ended with {status:?}")
        })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Both fail only for a probe that has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The probe that cargo built beside the tests.
///
/// # Panics
///
/// If it is not there.
#[must_use]
pub fn probe_path() -> PathBuf {
    let test = std::env::current_exe().expect("find the running test");
    let path = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("tests are built in target/PROFILE/deps")
        .join("agentguard-probe");
    assert!(path.exists(), "{path:?} is not built");
    path
}

/// Ends the calling process when the thread that started it ends. For use after `fork`.
///
/// # Errors
///
/// What the kernel says.
pub fn die_with_parent() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(())
}

/// Moves the calling process through the open `cgroup.procs`. For use after `fork`.
fn enter(door: &File) -> io::Result<()> {
    nix::unistd::write(door.as_fd(), b"0")?;
    Ok(())
}
