//! Launches: a process put into a cgroup of its own, as the identity that it asked for.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use agentguard_common::identity::AgentId;
use jiff::Timestamp;

use super::{Daemon, labels};
use crate::{
    audit::{AuditRecord, Launched, Untrusted},
    control::{ErrorKind, Response, server::LaunchQuery},
    identity::{
        launch::{Launch, permits},
        select::slice_path,
    },
};

/// Longest reason that is kept, in bytes.
const MAX_REASON: usize = 1_024;

/// Why there was no launch.
struct Refusal {
    kind: ErrorKind,
    message: String,
}

impl Refusal {
    fn not_permitted(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::NotPermitted,
            message: message.into(),
        }
    }

    fn bad_argument(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::BadArgument,
            message: message.into(),
        }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Failed,
            message: message.into(),
        }
    }
}

impl Daemon {
    /// Puts who asks into a cgroup of its own, if policy lets it; it is there when this returns.
    pub(super) fn launch(&mut self, query: LaunchQuery) -> Response {
        let outcome = self.try_launch(&query);
        let LaunchQuery {
            caller,
            identity,
            reason,
        } = query;
        self.note(AuditRecord::Launched(Box::new(Launched {
            time: Timestamp::now(),
            identity: Untrusted::new(identity.as_bytes()),
            reason: reason.map(|reason| Untrusted::new(reason.as_bytes())),
            user: caller.user,
            login_user: caller.login_user,
            pid: caller.pid,
            comm: Untrusted::new(&caller.comm),
            outcome: outcome
                .as_ref()
                .map(|path| Untrusted::new(path.as_bytes()))
                .map_err(|refusal| refusal.message.clone()),
        })));
        match outcome {
            Ok(cgroup) => Response::Launched { cgroup },
            Err(Refusal { kind, message }) => Response::Error { kind, message },
        }
    }

    fn try_launch(&mut self, query: &LaunchQuery) -> Result<String, Refusal> {
        let LaunchQuery {
            caller,
            identity,
            reason,
        } = query;
        let policy = self
            .in_force
            .clone()
            .ok_or_else(|| Refusal::failed("the policy in force could not be read"))?;
        // Before anything is said of what policy has: it is not for everybody to know.
        if !permits(&policy.compiled.launchers, caller, identity) {
            return Err(Refusal::not_permitted(format!(
                "policy does not let you run as `{identity}`: a [[launchers]] table must name you and it"
            )));
        }
        if reason
            .as_ref()
            .is_some_and(|reason| reason.len() > MAX_REASON)
        {
            return Err(Refusal::bad_argument(format!(
                "the reason is longer than {MAX_REASON} bytes"
            )));
        }
        let id = self
            .id_of(identity)
            .ok_or_else(|| Refusal::bad_argument(format!("policy has no identity `{identity}`")))?;
        let slice = slice_path(&policy.compiled.agents_slice);
        let path = format!("{slice}/agentguard-run-{}.scope", uuid::Uuid::now_v7());
        let directory = self.directory(&path);
        let made = make(&directory)
            .map_err(|error| Refusal::failed(format!("cannot make the cgroup {path}: {error}")))?;
        let launched = self.fill(query, id, &path, made);
        if launched.is_err()
            && let Err(error) = fs::remove_dir(&directory)
        {
            tracing::warn!(%error, path, "the cgroup of a failed launch stays");
        }
        launched.map(|()| path)
    }

    /// Records and labels the new cgroup, then moves the caller into it.
    fn fill(
        &mut self,
        query: &LaunchQuery,
        id: AgentId,
        path: &str,
        cgroup_id: u64,
    ) -> Result<(), Refusal> {
        let caller = &query.caller;
        // On disk before anything runs there: the next daemon must know whose it is.
        self.launches
            .add(Launch {
                cgroup_id,
                path: path.to_owned(),
                identity: query.identity.clone(),
                reason: query.reason.clone(),
                user: caller.user,
                groups: caller.groups.clone(),
                login_user: caller.login_user,
                pid: caller.pid,
                comm: String::from_utf8_lossy(&caller.comm).into_owned(),
            })
            .map_err(|error| Refusal::failed(error.to_string()))?;
        self.kernel
            .label(cgroup_id, &labels::of_launch(id))
            .map_err(|error| Refusal::failed(error.to_string()))?;
        let gone = || Refusal::failed("the process that asked has ended");
        if !caller.lives() {
            return Err(gone());
        }
        fs::write(
            self.directory(path).join("cgroup.procs"),
            caller.pid.to_string(),
        )
        .map_err(|error| Refusal::failed(format!("cannot move process {}: {error}", caller.pid)))?;
        if !caller.lives() {
            return Err(gone());
        }
        self.enrolment.want();
        Ok(())
    }

    /// Removes the cgroups of launches that have become empty.
    pub(super) fn clear_launches(&mut self) {
        let root = &self.cgroup_root;
        let cleared = self
            .launches
            .clear(|launch| is_cleared(&below(root, &launch.path), launch.cgroup_id));
        if let Err(error) = cleared {
            tracing::error!(%error, "what was launched stays on record after its end");
        }
    }

    fn directory(&self, path: &str) -> PathBuf {
        below(&self.cgroup_root, path)
    }

    fn id_of(&self, identity: &str) -> Option<AgentId> {
        let policy = self.in_force.as_ref()?;
        let index = policy.compiled.index_of(identity)?;
        policy.ids.get(index).copied()
    }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Makes the cgroup at `directory` and what is missing above it; its id.
fn make(directory: &Path) -> io::Result<u64> {
    if let Some(slice) = directory.parent() {
        fs::create_dir_all(slice)?;
    }
    fs::create_dir(directory)?;
    Ok(File::open(directory)?.metadata()?.ino())
}

/// Whether the cgroup is gone, or is another than `id`, or was empty and has been removed.
fn is_cleared(directory: &Path, id: u64) -> bool {
    match fs::symlink_metadata(directory) {
        Ok(metadata) if metadata.ino() != id => true,
        // The kernel removes no cgroup that has processes or others below it.
        Ok(_) => fs::remove_dir(directory).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_cleared_once_it_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.slice/b.scope");
        let id = make(&path).unwrap();
        make(&path).unwrap_err();
        let child = path.join("child");
        fs::create_dir(&child).unwrap();
        assert!(!is_cleared(&path, id));
        assert!(is_cleared(&path, id + 1));
        assert!(path.exists());
        fs::remove_dir(&child).unwrap();
        assert!(is_cleared(&path, id));
        assert!(!path.exists());
        assert!(is_cleared(&path, id));
    }
}
