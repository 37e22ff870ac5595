//! Asks others what a path does not tell, off the daemon's loop.
//!
//! The daemon calls [`Resolver::context`] for each cgroup that it labels, and labels it by what is
//! known so far. It waits on [`Resolver::next`] beside its other events; each answer is the whole
//! context of a cgroup that has become known better, to be labelled anew. When a cgroup is removed
//! it calls [`Resolver::forget`].
//!
//! Until an answer is there, a cgroup is what its path makes it, or belongs to whom the one above
//! belongs to. A policy that must hold from the first instruction selects by path.
//!
//! Nothing here waits for longer than a few seconds for anybody, and nothing is asked that the host
//! does not have.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Once},
    thread,
    time::Duration,
};

use agentguard_common::capacity::MAX_CGROUPS;
use tokio::sync::{Semaphore, mpsc};
use xattr::FileExt as _;

use super::{
    Container, Context, Runtime, components, container,
    engine::{self, Inspected},
    ownership, session, systemd,
};
use crate::identity::cgroups;

/// Cgroups that wait to be asked about; what comes while they are full is asked about when it is
/// labelled next.
const WAITING: usize = 4_096;

/// Cgroups that are asked about at a time.
const AT_ONCE: usize = 8;

/// When to ask again where the one who knows is not there yet: systemd and engines make cgroups
/// before they can tell of what is in them.
const RETRIES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1_500),
    Duration::from_secs(5),
    Duration::from_secs(20),
];

/// Who is asked.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The mount that paths are below.
    pub cgroup_root: PathBuf,
    /// Socket of the system bus, if systemd runs this host.
    pub bus: Option<PathBuf>,
    /// Where logind has its sessions.
    pub sessions: PathBuf,
    /// Sockets of container engines.
    pub engines: Vec<(Runtime, PathBuf)>,
    /// Whose all of them and the cgroups must be: 0 but in tests.
    pub owner: u32,
}

impl Sources {
    /// Those of this host.
    #[must_use]
    pub fn of_host(cgroup_root: &Path) -> Self {
        // As sd_booted(3) tells.
        let is_booted = Path::new("/run/systemd/system").is_dir();
        Self {
            cgroup_root: cgroup_root.to_owned(),
            bus: is_booted.then(|| "/run/dbus/system_bus_socket".into()),
            sessions: "/run/systemd/sessions".into(),
            engines: engine::SOCKETS
                .map(|(runtime, socket)| (runtime, socket.into()))
                .to_vec(),
            owner: 0,
        }
    }
}

/// Contexts of cgroups, remembered.
#[derive(Debug)]
pub struct Resolver {
    asked: mpsc::Sender<(u64, Context)>,
    answers: mpsc::Receiver<(u64, Context)>,
    known: HashMap<u64, Context>,
    /// The keys of `known`, oldest first.
    order: VecDeque<u64>,
    host: Arc<Host>,
}

#[derive(Debug)]
struct Host {
    sources: Sources,
    /// That a socket is not asked is said once.
    refusal: Once,
    bus: Option<systemd::Bus>,
}

impl Resolver {
    /// Starts the thread that asks.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn new(sources: Sources) -> io::Result<Self> {
        let (asked, jobs) = mpsc::channel(WAITING);
        let (sender, answers) = mpsc::channel(WAITING);
        let host = Arc::new(Host {
            bus: sources.bus.clone().map(systemd::Bus::new),
            sources,
            refusal: Once::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let asker = Arc::clone(&host);
        thread::Builder::new()
            .name("contexts".to_owned())
            .spawn(move || runtime.block_on(serve(asker, jobs, sender)))?;
        Ok(Self {
            asked,
            answers,
            known: HashMap::new(),
            order: VecDeque::new(),
            host,
        })
    }

    /// What is known by now of the cgroup `id` at `path`. If others may know more, they are asked,
    /// once for each cgroup.
    ///
    /// Without its directory, only its path counts, and nothing tells whether somebody else than
    /// root made the cgroup.
    pub fn context(&mut self, id: u64, path: &str, directory: Option<&OwnedFd>) -> Context {
        if let Some(known) = self.known.get(&id).filter(|known| known.path == path) {
            return known.clone();
        }
        let context = self.host.at_once(path, directory);
        if self.host.may_know_more(&context) && self.asked.try_send((id, context.clone())).is_err()
        {
            tracing::warn!(
                path,
                "too many new cgroups to ask about: this one is known by its path only"
            );
            return context;
        }
        self.remember(id, context.clone());
        context
    }

    /// Waits for an answer about a cgroup that is still remembered, and remembers it.
    pub async fn next(&mut self) -> (u64, Context) {
        loop {
            let Some((id, context)) = self.answers.recv().await else {
                return std::future::pending().await;
            };
            if let Some(known) = self.known.get_mut(&id)
                && known.path == context.path
            {
                known.clone_from(&context);
                return (id, context);
            }
        }
    }

    /// A cgroup was removed.
    pub fn forget(&mut self, id: u64) {
        self.known.remove(&id);
    }

    /// Forgets the cgroups that are not there any more.
    pub fn keep(&mut self, is_there: impl Fn(u64) -> bool) {
        self.known.retain(|&id, _| is_there(id));
    }

    fn remember(&mut self, id: u64, context: Context) {
        if self.known.insert(id, context).is_none() {
            self.order.push_back(id);
        }
        // Those that were forgotten leave their number behind.
        while self.order.len() > MAX_CGROUPS as usize {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

async fn serve(
    host: Arc<Host>,
    mut jobs: mpsc::Receiver<(u64, Context)>,
    answers: mpsc::Sender<(u64, Context)>,
) {
    let seats = Arc::new(Semaphore::new(AT_ONCE));
    while let Some((id, before)) = jobs.recv().await {
        let (host, answers, seats) = (Arc::clone(&host), answers.clone(), Arc::clone(&seats));
        tokio::spawn(async move {
            let mut retries = RETRIES.into_iter();
            let mut context = before.clone();
            loop {
                let known = context.clone();
                let seat = seats.acquire().await;
                let is_done = host.ask(&mut context).await;
                drop(seat);
                if context != known && answers.send((id, context.clone())).await.is_err() {
                    return;
                }
                match retries.next() {
                    Some(pause) if !is_done => tokio::time::sleep(pause).await,
                    Some(_) | None => return,
                }
            }
        });
    }
}

impl Host {
    /// What the path and the directory prove.
    fn at_once(&self, path: &str, directory: Option<&OwnedFd>) -> Context {
        let context = Context::of_path(path);
        let Some(directory) = directory else {
            return context;
        };
        let depth = components(path).count();
        let is_of_owner =
            ownership::is_below(self.sources.owner, directory, depth).unwrap_or(false);
        if !is_of_owner {
            return Context {
                path: context.path,
                container: context.container.filter(|found| !found.is_of_system()),
                ..Context::default()
            };
        }
        let run_id = context.unit.as_ref().and_then(|_| run_id(directory));
        Context { run_id, ..context }
    }

    fn may_know_more(&self, context: &Context) -> bool {
        self.bus.is_some() && asked_unit(context).is_some()
            || logind_session(context).is_some()
            || self.asked_container(context).is_some()
    }

    /// Adds to `context` what others know; whether they knew all.
    async fn ask(&self, context: &mut Context) -> bool {
        let mut is_done = true;
        if let (Some(bus), Some(name)) = (&self.bus, asked_unit(context)) {
            match bus.unit(name, &context.path).await {
                Ok(Some(unit)) => {
                    context.claim = unit.claim;
                    context.timer = unit.timer;
                    context.run_id = unit.run_id.or(context.run_id.take());
                }
                Ok(None) => is_done = false,
                Err(error) => {
                    tracing::debug!(%error, path = context.path, "systemd does not tell of a unit");
                    is_done = false;
                }
            }
        }
        if let Some(found) = logind_session(context) {
            match session::Written::read(&self.sources.sessions, found, self.sources.owner) {
                Some(written) => {
                    context.cron |= written.is_of_cron();
                    if let Some(session) = &mut context.session {
                        session.class = written.class().map(str::to_owned);
                    }
                }
                None => is_done = false,
            }
        }
        if let Some((candidate, socket)) = self.asked_container(context) {
            match engine::inspect(&socket, self.sources.owner, &candidate.id).await {
                Ok(Some(inspected)) if self.is_in(&context.path, &inspected) => {
                    context.container = Some(Container {
                        name: inspected.name,
                        image: inspected.image,
                        labels: inspected.labels,
                        ..candidate
                    });
                }
                Ok(_) => is_done = false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    self.refusal.call_once(|| {
                        tracing::warn!(
                            %error,
                            socket = %socket.display(),
                            "an engine is not asked: containers are known by their paths only"
                        );
                    });
                    is_done = false;
                }
                Err(error) => {
                    tracing::debug!(%error, path = context.path, "an engine does not tell of a container");
                    is_done = false;
                }
            }
        }
        is_done
    }

    /// The container that an engine can be asked about, and where.
    fn asked_container(&self, context: &Context) -> Option<(Container, PathBuf)> {
        let candidate = container::candidate(&context.path)?;
        let mut engines = self.sources.engines.iter();
        let (_, socket) = engines.find(|(runtime, _)| *runtime == candidate.runtime)?;
        Some((candidate, socket.clone()))
    }

    /// Whether the process that the engine names is in the cgroup at `path` or below it. Anybody who
    /// may make cgroups can give one the name of a container; nobody gets the container's process
    /// into it.
    fn is_in(&self, path: &str, inspected: &Inspected) -> bool {
        let Some(pid) = inspected.pid else {
            return false;
        };
        let root = self.sources.cgroup_root.join(path.trim_start_matches('/'));
        let mut is_found = false;
        let walked = cgroups::walk(&root, &mut |_, directory| {
            is_found = is_found || cgroups::processes(directory).contains(&pid);
        });
        walked.is_ok() && is_found
    }
}

/// The unit that systemd can be asked about: slices have no claims, nothing starts them.
fn asked_unit(context: &Context) -> Option<&str> {
    context
        .unit
        .as_deref()
        .filter(|unit| !super::is_slice(unit))
}

fn logind_session(context: &Context) -> Option<&super::Session> {
    context
        .session
        .as_ref()
        .filter(|session| session.class.is_none())
}

/// Where systemd keeps the invocation id of the unit of a cgroup, and only root can write.
fn run_id(directory: &OwnedFd) -> Option<String> {
    let directory = std::fs::File::from(directory.try_clone().ok()?);
    let value = directory.get_xattr("trusted.invocation_id").ok()??;
    uuid::Uuid::try_parse_ascii(&value)
        .ok()
        .and_then(|id| systemd::run_id(id.as_bytes()))
}

#[cfg(test)]
mod tests;
