//! What people ask of the daemon: answers, and policy loaded anew.

use jiff::Timestamp;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    Daemon,
    generation::{self, Candidate},
    notify::notify,
    status,
};
use crate::{
    audit::{AuditRecord, PolicyRejected},
    control::{
        ErrorKind, Response,
        server::{Answer, Call, Query, Work},
    },
    policy::{Diagnostic, Diagnostics},
};

/// Policy being read, and who waits for it.
#[derive(Default)]
pub(super) struct Reload {
    reading: Option<JoinHandle<Result<Box<Candidate>, Diagnostics>>>,
    waiting: Vec<oneshot::Sender<Answer>>,
    /// Those who asked while it was being read: it may have changed since.
    next: Option<Vec<oneshot::Sender<Answer>>>,
}

impl Reload {
    /// Waits until the policy has been read; forever if nobody asked.
    pub(super) async fn finished(&mut self) -> Result<Box<Candidate>, Diagnostics> {
        let Some(reading) = &mut self.reading else {
            return std::future::pending().await;
        };
        let read = reading.await;
        self.reading = None;
        read.unwrap_or_else(|error| {
            let mut diagnostics = Diagnostics::default();
            diagnostics.push(Diagnostic::error(format!(
                "the policy cannot be read: {error}"
            )));
            Err(diagnostics)
        })
    }
}

impl Daemon {
    /// Answers a client's task.
    pub(super) fn answer(&mut self, call: Call) {
        let answer = match call.query {
            Query::Status => Answer::Response(match self.status() {
                Ok(status) => Response::Status(Box::new(status)),
                Err(error) => failed(&error.to_string()),
            }),
            Query::Ps => self.list_owners(),
            Query::TestSink(sink) => Answer::Response(self.test_sink(sink)),
            Query::ReplaySink(sink, after) => Answer::Response(self.replay_sink(&sink, after)),
            Query::Launch(query) => Answer::Response(self.launch(*query)),
            Query::Reload { wait: true } => return self.begin_reload(Some(call.reply)),
            Query::Reload { wait: false } => {
                self.begin_reload(None);
                Answer::Response(Response::Accepted {})
            }
        };
        // A client that went away misses its answer.
        drop(call.reply.send(answer));
    }

    fn list_owners(&mut self) -> Answer {
        let Some(policy) = self.in_force.clone() else {
            return Answer::Response(failed("the policy in force could not be read"));
        };
        // What was made a moment ago is to be seen.
        self.follow_cgroups();
        let root = self.cgroup_root.clone();
        let cgroups: Vec<_> = self
            .places
            .live()
            .map(|(id, place)| (id, place.clone()))
            .collect();
        Answer::Work(Work(Box::new(move || {
            status::owners(&policy, &root, &cgroups)
        })))
    }

    fn test_sink(&mut self, sink: String) -> Response {
        if !self.settings.sinks.contains_key(&sink) {
            return no_such_sink(&sink);
        }
        let time = Timestamp::now();
        self.note(AuditRecord::SinkTest { time, sink });
        // Those that wait after a failure are to try at once.
        self.delivery.nudge();
        Response::Accepted {}
    }

    fn replay_sink(&self, sink: &str, after: u64) -> Response {
        if self.delivery.replay(sink, after) {
            Response::Accepted {}
        } else {
            no_such_sink(sink)
        }
    }

    /// Begins to read the policy, for who waits at `reply` and for those who wait already.
    pub(super) fn begin_reload(&mut self, reply: Option<oneshot::Sender<Answer>>) {
        if self.reload.reading.is_some() {
            self.reload.next.get_or_insert_default().extend(reply);
            return;
        }
        self.reload.waiting.extend(reply);
        // Files that were moved away, certificates and secrets that were renewed.
        self.delivery.nudge();
        let directories = self.settings.policy_dirs.clone();
        let read = move || generation::read(&directories).map(Box::new);
        self.reload.reading = Some(tokio::task::spawn_blocking(read));
    }

    /// Puts what was read in force, or keeps the old policy whole and says why.
    pub(super) fn finish_reload(&mut self, read: Result<Box<Candidate>, Diagnostics>) {
        let result = read.and_then(|candidate| {
            if !candidate.warnings.is_empty() {
                tracing::warn!("{}", candidate.warnings);
            }
            self.put_in_force(*candidate).map_err(|error| {
                let mut diagnostics = Diagnostics::default();
                diagnostics.push(Diagnostic::error(error.to_string()));
                diagnostics
            })
        });
        let response = match result {
            Ok(generation) => {
                self.last_rejection = None;
                tracing::info!(generation, "policy in force");
                notify(&format!("STATUS=Generation {generation} in force."));
                Response::Reloaded { generation }
            }
            Err(diagnostics) => self.reject(&diagnostics),
        };
        for waiting in self.reload.waiting.drain(..) {
            // A client that went away misses its answer.
            drop(waiting.send(Answer::Response(response.clone())));
        }
        if let Some(next) = self.reload.next.take() {
            self.begin_reload(None);
            self.reload.waiting = next;
        }
    }

    /// Records that a policy was refused; the one in force stays.
    pub(super) fn reject(&mut self, diagnostics: &Diagnostics) -> Response {
        self.policies_rejected += 1;
        let generation = self.kernel.generation();
        let detail = diagnostics.render(false);
        tracing::error!(
            generation,
            "policy refused, the one in force stays:\n{detail}"
        );
        notify(&format!(
            "STATUS=Policy refused; generation {generation} stays in force."
        ));
        let first = diagnostics.iter().next();
        self.note(AuditRecord::PolicyRejected(PolicyRejected {
            time: Timestamp::now(),
            generation,
            errors: diagnostics.errors(),
            detail: first.map(|first| first.message.clone()).unwrap_or_default(),
        }));
        self.last_rejection = Some(detail.clone());
        Response::Rejected { generation, detail }
    }
}

fn failed(message: &str) -> Response {
    Response::Error {
        kind: ErrorKind::Failed,
        message: message.to_owned(),
    }
}

fn no_such_sink(sink: &str) -> Response {
    Response::Error {
        kind: ErrorKind::BadArgument,
        message: format!("no sink `{sink}` in the settings that the daemon started with"),
    }
}
