//! Cgroups, networks and mounts of our own, for demo and bench.

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// Leaves the mounts of the host: what is mounted from here on vanishes with this process and its
/// children.
pub(crate) fn enter_private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot leave the mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("cannot make the mounts private")
}

/// Cgroups below one of our own; dropping it kills what runs in them and removes them.
pub(crate) struct CgroupTree(PathBuf);

impl CgroupTree {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let top = cgroup2_mount()?.join(format!("agentguard-{name}-{}", process::id()));
        fs::create_dir(&top).with_context(|| format!("cannot make {}", top.display()))?;
        Ok(Self(top))
    }

    pub(crate) fn top(&self) -> &Path {
        &self.0
    }

    /// Makes a cgroup below the top.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for CgroupTree {
    fn drop(&mut self) {
        let remove = || -> Result<()> {
            fs::write(self.0.join("cgroup.kill"), "1")?;
            let mut left = 100;
            while remove_cgroups(&self.0).is_err() {
                left -= 1;
                ensure!(left > 0, "it is still busy");
                // Killed processes take a moment to be gone.
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        };
        if let Err(error) = remove() {
            eprintln!("cannot remove {}: {error:#}", self.0.display());
        }
    }
}

fn remove_cgroups(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    mount.context("no cgroup v2 hierarchy is mounted")
}

/// Two network namespaces, joined by a veth pair: agents in one, the world in the other. They have
/// no names, so they vanish with this process.
pub(crate) struct Network {
    /// Where the programs live; a path that only this process and its children can open.
    pub(crate) client: PathBuf,
    server: File,
    client_file: File,
}

impl Network {
    pub(crate) fn new() -> Result<Self> {
        let (client, server) = (new_namespace()?, new_namespace()?);
        let (client_path, server_path) = (path_of(&client), path_of(&server));
        configure(
            &client,
            &format!(
                "link add agents0 type veth peer world0 netns {}\n\
                 link set lo up\nlink set agents0 up\n\
                 addr add 198.18.0.1/24 dev agents0\naddr add fd77::1/64 dev agents0 nodad\n",
                server_path.display()
            ),
        )?;
        configure(
            &server,
            "link set lo up\nlink set world0 up\n\
             addr add 198.18.0.2/24 dev world0\naddr add fd77::2/64 dev world0 nodad\n\
             route add local 10.0.0.0/8 dev lo\nroute add local 169.254.169.254 dev lo\n\
             route add local fd00::/16 dev lo\n",
        )?;
        configure(
            &client,
            "route add default via 198.18.0.2\nroute add default via fd77::2\n",
        )?;
        Ok(Self {
            client: client_path,
            server,
            client_file: client,
        })
    }

    /// Runs `work` on a thread among the agents.
    pub(crate) fn in_client<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.client_file, work)
    }

    /// Runs `work` on a thread in the world.
    pub(crate) fn in_server<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.server, work)
    }
}

fn path_of(namespace: &File) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/fd/{}",
        process::id(),
        namespace.as_raw_fd()
    ))
}

fn new_namespace() -> Result<File> {
    // On a thread of its own: this one stays where it is.
    let made = thread::spawn(|| -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    });
    made.join().unwrap_or_else(|_| bail!("the thread died"))
}

/// Runs `work` on a thread inside.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
            work()
        });
        work.join().unwrap_or_else(|_| bail!("the thread died"))
    })
}

fn configure(namespace: &File, batch: &str) -> Result<()> {
    inside(namespace, || {
        let mut ip = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start ip")?;
        let mut stdin = ip.stdin.take().context("stdin is a pipe")?;
        stdin.write_all(batch.as_bytes())?;
        drop(stdin);
        let status = ip.wait()?;
        ensure!(status.success(), "ip failed ({status}) at:\n{batch}");
        Ok(())
    })
}
