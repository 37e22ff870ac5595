//! A podman of a test's own: its images, its containers and its socket, all below the test's own
//! directory and cgroups.

mod image;

use std::{
    fs::{self, File},
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::{agent::Agent, cgroup::Cgroup, mounts::Mounts, requirements, sandbox::Sandbox};

/// Below the top of the test's cgroups: where podman without systemd has its containers.
pub const CONTAINERS: &str = "libpod_parent";

/// Where the probe is in every image.
const PROBE: &str = "/probe";

/// How long the service may take to come up.
const LIFE_TIMEOUT: Duration = Duration::from_secs(60);

/// What podman would else read from the host, or take for granted that root may set: containers get
/// no more than the limits of this process.
const SETTINGS: &str = r#"
[containers]
netns = "host"
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// A podman of root. Dropping it ends its service; its containers end with the cgroups of the
/// sandbox.
#[derive(Debug)]
pub struct Podman<'a> {
    sandbox: &'a Sandbox,
    /// Where podman itself runs.
    cgroup: Cgroup,
    mounts: Mounts,
    /// Of cgroups: podman takes the top of the test's for the root.
    namespace: OwnedFd,
    files: PathBuf,
    service: Option<Child>,
}

impl<'a> Podman<'a> {
    /// Makes one without images.
    ///
    /// # Panics
    ///
    /// If podman is not installed, or something cannot be made.
    #[must_use]
    pub fn new(sandbox: &'a Sandbox) -> Self {
        requirements::assert_podman();
        let files = sandbox.files().join("podman");
        for directory in ["socket", "images"] {
            fs::create_dir_all(files.join(directory)).expect("make podman's directories");
        }
        fs::write(files.join("containers.conf"), SETTINGS).expect("write podman's settings");
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            files.join("storage"),
            files.join("run"),
        );
        fs::write(files.join("storage.conf"), storage).expect("write podman's settings");
        let mounts = Mounts::new();
        for directory in ["/run", "/dev/shm"] {
            mounts.empty(Path::new(directory));
        }
        let namespace = cgroup_namespace(sandbox, &mounts);
        Self {
            sandbox,
            cgroup: sandbox.cgroup("podman"),
            mounts,
            namespace,
            files,
            service: None,
        }
    }

    /// Makes an image with the probe and what it is linked to, and nothing else.
    ///
    /// # Panics
    ///
    /// With what podman says if it fails.
    pub fn make_image(&self, name: &str) {
        let archive = image::archive(&self.files);
        let archive = archive.to_str().expect("paths of tests are text");
        self.ask(&["import", "--quiet", archive, name]);
    }

    /// Starts a probe in a new container, with its stdin and stdout piped.
    ///
    /// # Panics
    ///
    /// If podman cannot be started.
    #[must_use]
    pub fn run(&self, options: &[&str], image: &str, probe: &[&str]) -> Child {
        let mut command = self.command();
        command
            // Without privileges, the runtime loads a program of its own for devices, for which it
            // raises a limit that root may not raise everywhere. A limit of processes needs a
            // controller that may belong to cgroup v1.
            .args(["run", "--interactive", "--privileged", "--pids-limit=0"])
            .args(options)
            .arg(image)
            .arg(PROBE)
            .args(probe);
        self.place().spawn(command)
    }

    /// Starts a probe in a container that runs, with its stdin and stdout piped.
    ///
    /// # Panics
    ///
    /// If podman cannot be started.
    #[must_use]
    pub fn exec(&self, container: &str, probe: &[&str]) -> Child {
        let mut command = self.command();
        command
            .args(["exec", "--interactive", "--privileged", container, PROBE])
            .args(probe);
        self.place().spawn(command)
    }

    /// Runs podman to its end and returns what it printed.
    ///
    /// # Panics
    ///
    /// With what podman says if it fails.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.args(arguments).stderr(Stdio::piped());
        let child = self.place().spawn(command);
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().expect("wait for podman");
        assert!(
            status.success(),
            "podman {arguments:?}: {status}: {}",
            String::from_utf8_lossy(&stderr)
        );
        String::from_utf8(stdout).expect("podman prints text")
    }

    /// The id of a container that runs; waits until it does.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        let deadline = Instant::now() + LIFE_TIMEOUT;
        loop {
            let filter = format!("name=^{name}$");
            let listed = self.ask(&["ps", "--format", "json", "--filter", &filter]);
            let listed: Value = serde_json::from_str(&listed).expect("podman prints JSON");
            if let Some(id) = listed[0]["Id"].as_str() {
                return id.to_owned();
            }
            assert!(Instant::now() < deadline, "container {name} does not run");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the service that tells of containers, and waits until it listens.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn serve(&mut self) {
        let socket = self.socket();
        let mut command = self.command();
        command
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()));
        let mut service = self.place().spawn(command);
        let deadline = Instant::now() + LIFE_TIMEOUT;
        while UnixStream::connect(&socket).is_err() {
            let ended = service.try_wait().expect("look after podman");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "podman's service does not listen ({ended:?})"
            );
            thread::sleep(Duration::from_millis(20));
        }
        self.service = Some(service);
    }

    /// Where the service listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.files.join("socket/podman.sock")
    }

    /// Shows the socket where podman's socket is on every host.
    ///
    /// # Panics
    ///
    /// If it cannot be mounted.
    pub fn show_socket(&self, mounts: &Mounts) {
        mounts.empty(Path::new("/run"));
        let directory = self.files.join("socket");
        mounts.bind(&directory, Path::new("/run/podman"));
    }

    /// What podman says besides answers.
    fn log(&self) -> File {
        let mut options = File::options();
        let log = options.create(true).append(true);
        log.open(self.files.join("log")).expect("open the log")
    }

    fn place(&self) -> Agent<'_> {
        self.sandbox.agent(&self.cgroup)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command
            .env("CONTAINERS_CONF", self.files.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.files.join("storage.conf"))
            .env("TMPDIR", self.files.join("images"));
        command.stderr(self.log());
        self.mounts.take_in(&mut command);
        let namespace = self.namespace.try_clone().expect("copy a descriptor");
        // SAFETY: the closure makes a system call on a descriptor it owns, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                setns(&namespace, CloneFlags::CLONE_NEWCGROUP)?;
                Ok(())
            })
        };
        command
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        if let Some(service) = &mut self.service {
            // Both fail only for a service that has ended already.
            drop(service.kill());
            drop(service.wait());
        }
        if thread::panicking() {
            #[expect(
                clippy::print_stderr,
                reason = "it is shown with the failure of the test"
            )]
            {
                let said = fs::read_to_string(self.files.join("log")).unwrap_or_default();
                eprintln!("podman said:\n{said}");
            }
        }
    }
}

/// A namespace in which the sandbox's top is the root of all cgroups, mounted where podman and its
/// runtime look for cgroup v2. They switch on controllers from the root down, and this is not the
/// host's; options of a mount in it are not the host's either.
fn cgroup_namespace(sandbox: &Sandbox, mounts: &Mounts) -> OwnedFd {
    let mut command = Command::new("unshare");
    let script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && echo && exec cat";
    command.args(["--cgroup", "sh", "-c", script]);
    mounts.take_in(&mut command);
    let mut inside = sandbox.agent(sandbox.cgroups.top()).spawn(command);
    let stdout = inside.stdout.as_mut().expect("stdout is piped");
    stdout.read_exact(&mut [0]).expect("mount the cgroups");
    let path = format!("/proc/{}/ns/cgroup", inside.id());
    let namespace = File::open(path).expect("open the cgroup namespace");
    inside.kill().expect("end what made the namespace");
    inside.wait().expect("end what made the namespace");
    namespace.into()
}
