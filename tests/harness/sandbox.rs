//! One test's own piece of the machine: cgroups, network, files.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    agent::Agent,
    cgroup::{Cgroup, CgroupTree},
    network::Network,
    requirements,
    sniffer::Sniffer,
    world::World,
};

/// Everything that a test touches. Dropping it takes all of it down.
#[derive(Debug)]
pub struct Sandbox {
    /// Sees what arrives at the world's side.
    pub sniffer: Sniffer,
    /// Answers there.
    pub world: World,
    /// The two sides and the wire.
    pub network: Network,
    /// What agentguard attaches to.
    pub cgroups: CgroupTree,
    files: TempDir,
}

impl Sandbox {
    /// Makes a sandbox.
    ///
    /// # Panics
    ///
    /// If the machine lacks something.
    #[must_use]
    pub fn new() -> Self {
        requirements::assert_met();
        let network = Network::new();
        Self {
            sniffer: Sniffer::on_wire(&network),
            world: World::start(&network.server),
            network,
            cgroups: CgroupTree::new(),
            files: TempDir::with_prefix("agentguard-test-").expect("make a directory"),
        }
    }

    /// Makes a cgroup below the top.
    #[must_use]
    pub fn cgroup(&self, name: impl AsRef<Path>) -> Cgroup {
        self.cgroups.top().child(name)
    }

    /// Where probes start that live in `cgroup`, on the agents' side.
    #[must_use]
    pub fn agent<'a>(&'a self, cgroup: &'a Cgroup) -> Agent<'a> {
        Agent {
            cgroup,
            netns: &self.network.client,
        }
    }

    /// A directory of its own, for root alone.
    #[must_use]
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    /// Lets every user into that directory.
    ///
    /// # Panics
    ///
    /// If the machine refuses.
    pub fn open_files(&self) {
        fs::set_permissions(self.files(), fs::Permissions::from_mode(0o755))
            .expect("open a directory");
    }

    /// `program` where every user may run it: it may have been built in a place that only root may enter.
    ///
    /// # Panics
    ///
    /// If the machine refuses.
    #[must_use]
    pub fn open_program(&self, program: &Path) -> PathBuf {
        self.open_files();
        open_program(self.files(), program)
    }

    /// A new directory in it that every user may enter.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    #[must_use]
    pub fn open_directory(&self, name: &str) -> PathBuf {
        self.open_files();
        let path = self.files().join(name);
        fs::create_dir(&path).expect("make a directory");
        path
    }
}

/// `program` by a name in `directory`.
pub(crate) fn open_program(directory: &Path, program: &Path) -> PathBuf {
    let open = directory.join("open");
    fs::create_dir_all(&open).expect("make a directory");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).expect("open a directory");
    let name = program.file_name().expect("a program has a name");
    let path = open.join(name);
    if !path.exists() && fs::hard_link(program, &path).is_err() {
        fs::copy(program, &path).expect("copy a program");
    }
    path
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}
