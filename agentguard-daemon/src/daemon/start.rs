//! From settings to a daemon that serves: attach, load, label, be ready.

use std::{
    error::Error,
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::Instant,
};

use jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    Daemon, Signals,
    batch::Batches,
    conditions::Conditions,
    enrolment::Enrolment,
    generation::{self, SwapError},
    host,
    limits::LimitDesk,
    lock,
    notify::notify,
    places::Places,
    readable::Readable,
    recovery::Recovery,
    requests::Reload,
};
use crate::{
    audit::{AuditRecord, Encoder, Host, Trail},
    config::Settings,
    control::{
        access,
        server::{self, Audience},
    },
    delivery::Delivery,
    history::{History, HistoryError, Retention},
    identity::{
        context::resolver::{Resolver, Sources},
        execution::Executions,
        launch::{Launches, LaunchesError},
        registry::{Registry, RegistryError},
    },
    kernel::{Kernel, KernelError, Loaded, Placement, support},
    limit::{Book, BookError},
    metrics,
    policy::Diagnostics,
    sink::{SinkError, TransportSettings, file::FileSink},
};

/// Calls of clients that wait for the loop.
const CALLS_WAITING: usize = 16;

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel lacks something that enforcement needs.
    #[error("this kernel ({release}) cannot enforce:\n{}\nset `allow-degraded = true` to go on with less", .missing.join("\n"))]
    Unsupported {
        /// `uname -r`.
        release: String,
        /// What it lacks, and what is lost.
        missing: Vec<String>,
    },
    /// There is a daemon already.
    #[error("another daemon runs on {path}", path = .0.display())]
    AlreadyRuns(PathBuf),
    /// The policy is refused, and none is in force that could stay.
    #[error("the policy is refused and none is in force:\n{0}")]
    Policy(Diagnostics),
    /// Policy is in force, but whose numbers its identities had is not known any more.
    #[error(
        "policy is in force from an earlier daemon, but {path} of this boot is gone: sockets could get another identity; run `agentguard detach`, then start again", path = .0.display()
    )]
    RegistryGone(PathBuf),
    /// The numbers of the identities.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What earlier daemons launched.
    #[error(transparent)]
    Launches(#[from] LaunchesError),
    /// What was used of limits.
    #[error(transparent)]
    Limits(#[from] BookError),
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The policy did not come into force.
    #[error(transparent)]
    Swap(#[from] SwapError),
    /// The history.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A sink.
    #[error("sink `{name}`: {source}")]
    Sink {
        /// Its name.
        name: String,
        /// Why.
        source: SinkError,
    },
    /// Something of the host.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Starts a daemon; it serves once [`Daemon::run`] is called.
///
/// # Errors
///
/// If it cannot do its work. What an earlier daemon left in force stays so.
pub fn start(settings: Settings) -> Result<Daemon, StartError> {
    let lock = lock::take(&settings.state_dir)
        .map_err(failed(format!(
            "state directory {}",
            settings.state_dir.display()
        )))?
        .ok_or_else(|| StartError::AlreadyRuns(settings.state_dir.clone()))?;
    let mut degraded = check_support(settings.allow_degraded)?;
    let cgroup_root = host::cgroup_root(&settings).map_err(failed("cgroup root"))?;
    let hierarchy = host::hierarchy(&cgroup_root)
        .map_err(failed(format!("cgroup root {}", cgroup_root.display())))?;
    let boot_id = host::boot_id().map_err(failed("boot id"))?;
    let registry_path = settings.state_dir.join("identities.json");
    let registry = Registry::open(&registry_path, &boot_id)?;
    let launches = Launches::open(&settings.state_dir.join("launches.json"), &boot_id)?;
    let limits = Book::open(&settings.state_dir.join("limits.json"), &boot_id)?;
    check_sinks(&settings)?;

    let placement = Placement {
        cgroup_root: cgroup_root.clone(),
        bpffs: settings.bpffs.clone(),
        allow_degraded: settings.allow_degraded,
    };
    let Loaded {
        kernel,
        audit,
        cgroups,
        processes,
        left_out,
    } = Kernel::load(&placement)?;
    degraded.extend(
        left_out
            .iter()
            .map(|(name, error)| format!("- `{name}` is not attached: {}", with_causes(error))),
    );
    for line in &degraded {
        tracing::error!("degraded {line}");
    }
    if kernel.generation() > 0 && !registry.is_continued() {
        return Err(StartError::RegistryGone(registry_path));
    }
    let signals = Signals {
        reload: signal(SignalKind::hangup()).map_err(failed("signals"))?,
        terminate: signal(SignalKind::terminate()).map_err(failed("signals"))?,
        interrupt: signal(SignalKind::interrupt()).map_err(failed("signals"))?,
    };
    let listener =
        server::listen(&settings.control_socket, Audience::Everybody).map_err(failed(format!(
            "control socket {}",
            settings.control_socket.display()
        )))?;
    let (calls_sender, calls) = mpsc::channel(CALLS_WAITING);
    let host = Host {
        version: env!("CARGO_PKG_VERSION").into(),
        hostname: host::hostname(),
        boot_id,
    };
    let directory = history_directory(&settings);
    let history = History::open(
        &directory,
        Encoder::new(host, uuid::Uuid::now_v7()),
        Retention::from(&settings.history),
        settings
            .sinks
            .iter()
            .map(|(name, sink)| (name.clone(), sink.filter.clone())),
    )?;
    share(&settings.state_dir, &directory).map_err(failed("history"))?;
    let delivery = Delivery::start(
        &settings.sinks,
        &directory,
        history.cursors(),
        history.committed(),
    )
    .map_err(failed("sinks"))?;
    let resolver = Resolver::new(Sources::of_host(&cgroup_root)).map_err(failed("contexts"))?;
    let mut daemon = Daemon {
        cgroup_root,
        hierarchy,
        audit_ring: Readable::new(audit).map_err(failed("audit ring"))?,
        batches: Batches::default(),
        cgroup_ring: Readable::new(cgroups).map_err(failed("cgroup ring"))?,
        process_ring: Readable::new(processes).map_err(failed("process ring"))?,
        executions: Executions::default(),
        resolver,
        kernel,
        registry,
        in_force: None,
        policies_rejected: 0,
        last_rejection: None,
        degraded,
        trail: Trail::default(),
        refuses: history.refuses_flows(),
        history,
        delivery,
        records: Vec::new(),
        recovery: Recovery::default(),
        places: Places::default(),
        conditions: Conditions::default(),
        enrolment: Enrolment::default(),
        cgroup_events_lost: 0,
        review_due: None,
        launches,
        limits: LimitDesk::new(limits),
        reload: Reload::default(),
        calls,
        signals,
        started: Instant::now(),
        started_at: Timestamp::now(),
        settings,
        _lock: lock,
    };
    daemon.begin_accounts()?;
    let time = Timestamp::now();
    daemon.note(AuditRecord::DaemonStarted { time });
    daemon.find_processes();
    daemon.clear_launches();
    daemon.load_first_policy(&placement)?;
    daemon.enrol();
    daemon.deliver();
    let clients = server::Daemon {
        calls: calls_sender,
    };
    if let Some(endpoint) = daemon.settings.metrics.clone() {
        tokio::spawn(metrics::server::serve(endpoint, clients.clone()));
    }
    tokio::spawn(server::serve(listener, clients));
    notify(&format!(
        "READY=1\nSTATUS=Generation {} in force.",
        daemon.kernel.generation()
    ));
    Ok(daemon)
}

impl Daemon {
    fn load_first_policy(&mut self, placement: &Placement) -> Result<(), StartError> {
        let diagnostics = match generation::read(&self.settings.policy_dirs) {
            Ok(candidate) => {
                if !candidate.warnings.is_empty() {
                    tracing::warn!("{}", candidate.warnings);
                }
                let generation = self.put_in_force(candidate)?;
                tracing::info!(generation, "policy in force");
                return Ok(());
            }
            Err(diagnostics) => diagnostics,
        };
        if self.kernel.generation() == 0 {
            // Without a policy the programs would only be in the way.
            Kernel::detach(placement)?;
            return Err(StartError::Policy(diagnostics));
        }
        self.reject(&diagnostics);
        Ok(())
    }
}

fn check_support(allow_degraded: bool) -> Result<Vec<String>, StartError> {
    let support = support::probe();
    let mut missing: Vec<String> = support
        .missing()
        .map(|feature| format!("- {}: {}", feature.name, feature.without))
        .collect();
    if !support.above_floor {
        missing.push("- Linux 5.15 or later".to_owned());
    }
    if missing.is_empty() {
        return Ok(missing);
    }
    if !allow_degraded {
        return Err(StartError::Unsupported {
            release: support.release,
            missing,
        });
    }
    Ok(missing)
}

/// An error with what led to it, down to what the kernel said.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let next = source.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = source.source();
    }
    text
}

/// Where the history of a daemon with these settings is.
#[must_use]
pub fn history_directory(settings: &Settings) -> PathBuf {
    settings.state_dir.join("history")
}

/// Lets the readers' group read the history, if the host has it.
fn share(state_dir: &Path, history: &Path) -> io::Result<()> {
    let Some(group) = access::reader_group() else {
        return Ok(());
    };
    for (path, mode) in [(state_dir, 0o710), (history, 0o2750)] {
        chown(path, None, Some(group.as_raw()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    for file in fs::read_dir(history)? {
        let path = file?.path();
        // Neither the key that signs nor what it is made in.
        if path.extension().is_some_and(|it| it == "db" || it == "pub") {
            chown(&path, None, Some(group.as_raw()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
        }
    }
    Ok(())
}

/// A file that is not ours alone is better told of now than when the first record comes.
fn check_sinks(settings: &Settings) -> Result<(), StartError> {
    for (name, sink) in &settings.sinks {
        if let TransportSettings::File(file) = &sink.transport {
            FileSink::new(file.clone())
                .check()
                .map_err(|source| StartError::Sink {
                    name: name.clone(),
                    source,
                })?;
        }
    }
    Ok(())
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::Host { what, source }
}
