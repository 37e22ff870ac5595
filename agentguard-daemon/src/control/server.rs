//! The listening side: a task for each client, which asks the daemon's loop on its behalf.
//!
//! The loop is asked for little at a time and never waits for a client: what a client does not read
//! is held by nobody.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::identity::launch::Caller;

use super::{
    ErrorKind, MAX_REQUEST_BYTES, Request, Response,
    access::{self, Peer},
};

/// Clients that are served at a time: of root, and as many of everybody else, who cannot keep root
/// out by staying.
const MAX_CLIENTS: usize = 64;

/// Clients who may not even read that are served at a time, besides those.
const MAX_STRANGERS: usize = 16;

/// How long a client may take to say what it wants, or to accept a part of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client's task asks the loop.
#[derive(Debug)]
pub struct Call {
    /// For what.
    pub query: Query,
    /// Where the answer goes; closed if the client went away.
    pub reply: oneshot::Sender<Answer>,
}

/// What the loop can be asked.
#[derive(Debug)]
pub enum Query {
    /// How it is.
    Status,
    /// Whom the cgroups belong to.
    Ps,
    /// To load the policy anew.
    Reload {
        /// Whether to answer when it is in force.
        wait: bool,
    },
    /// To put a process into a cgroup of its own.
    Launch(Box<LaunchQuery>),
    /// To put a record into the history that tells of this sink.
    TestSink(String),
    /// To have this sink get all records after this one again.
    ReplaySink(String, u64),
}

/// Which launch.
#[derive(Debug)]
pub struct LaunchQuery {
    /// Who asks.
    pub caller: Caller,
    /// As which identity.
    pub identity: String,
    /// Why.
    pub reason: Option<String>,
}

/// What the loop answers.
#[derive(Debug)]
pub enum Answer {
    /// This, to be passed on.
    Response(Response),
    /// Work to be done outside of the loop, whose result is to be passed on.
    Work(Work),
}

/// Work that takes long, and touches nothing of the loop.
pub struct Work(pub Box<dyn FnOnce() -> Response + Send>);

impl std::fmt::Debug for Work {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Work")
    }
}

/// What a client's task needs of the daemon.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// To the loop.
    pub calls: mpsc::Sender<Call>,
}

/// Who may connect to a socket at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Root and the group of readers.
    Readers,
    /// Everybody: what each may ask for, [`access`] tells.
    Everybody,
}

/// Listens at `path`.
///
/// # Errors
///
/// If the socket cannot be made. One that is there already is replaced: the daemon's lock says that
/// nobody serves it.
pub fn listen(path: &Path, audience: Audience) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Made under a name that nobody knows and renamed when only the right ones may connect.
    let staged = path.with_extension("new");
    for stale in [&staged, path] {
        match fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    let listener = UnixListener::bind(&staged)?;
    let mode = match (audience, access::reader_group()) {
        (Audience::Everybody, _) => 0o666,
        (Audience::Readers, Some(group)) => {
            chown(&staged, Some(0), Some(group.as_raw()))?;
            0o660
        }
        (Audience::Readers, None) => 0o600,
    };
    fs::set_permissions(&staged, fs::Permissions::from_mode(mode))?;
    fs::rename(&staged, path)?;
    Ok(listener)
}

/// Accepts clients until the daemon ends.
pub async fn serve(listener: UnixListener, daemon: Daemon) {
    let [of_root, of_others] = [(); 2].map(|()| Arc::new(Semaphore::new(MAX_CLIENTS)));
    // Strangers can fill their own seats, and keep nobody else out.
    let of_strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of descriptors: others need the time to give some back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(peer) = Peer::of(&stream) else {
            continue;
        };
        let seats = if peer.uid == 0 {
            &of_root
        } else if access::is_known(&peer) {
            &of_others
        } else {
            &of_strangers
        };
        let Ok(seat) = Arc::clone(seats).try_acquire_owned() else {
            let refusal = error(ErrorKind::Unavailable, "too many clients");
            // One attempt, which fits into the buffer of a new socket or is lost.
            drop(stream.try_write(&encode(&refusal)));
            continue;
        };
        let daemon = daemon.clone();
        tokio::spawn(async move {
            if let Err(error) = attend(&mut stream, &peer, &daemon).await {
                tracing::debug!(%error, "a client went away");
            }
            drop(seat);
        });
    }
}

async fn attend(stream: &mut UnixStream, peer: &Peer, daemon: &Daemon) -> io::Result<()> {
    let request = match timeout(PATIENCE, read_request(stream)).await {
        Ok(Ok(request)) => request,
        Ok(Err(refusal)) => return send(stream, &refusal).await,
        Err(_) => return send(stream, &error(ErrorKind::TooSlow, "no request came")).await,
    };
    if !access::permits(&request, peer) {
        let message = format!(
            "needs root{}",
            match request {
                Request::Reload { .. }
                | Request::Launch { .. }
                | Request::TestSink { .. }
                | Request::ReplaySink { .. } => String::new(),
                Request::Status {} | Request::Ps {} =>
                    format!(", or membership in the group `{}`", access::GROUP),
            }
        );
        return send(stream, &error(ErrorKind::NotPermitted, &message)).await;
    }
    let query = match request {
        Request::Status {} => Query::Status,
        Request::Ps {} => Query::Ps,
        Request::Reload { wait } => Query::Reload { wait },
        Request::Launch { identity, reason } => match Caller::of(stream) {
            Ok(caller) => Query::Launch(Box::new(LaunchQuery {
                caller,
                identity,
                reason,
            })),
            Err(failure) => {
                let message = format!("cannot tell who asks: {failure}");
                return send(stream, &error(ErrorKind::Failed, &message)).await;
            }
        },
        Request::TestSink { sink } => Query::TestSink(sink),
        Request::ReplaySink { sink, after } => Query::ReplaySink(sink, after),
    };
    let response = match call(daemon, query).await {
        Some(Answer::Response(response)) => response,
        Some(Answer::Work(work)) => tokio::task::spawn_blocking(work.0)
            .await
            .unwrap_or_else(|failure| error(ErrorKind::Failed, &failure.to_string())),
        None => stopping(),
    };
    send(stream, &response).await
}

async fn read_request(stream: &mut UnixStream) -> Result<Request, Response> {
    let limit = MAX_REQUEST_BYTES as u64;
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(limit));
    reader
        .read_until(b'\n', &mut line)
        .await
        .map_err(|failure| error(ErrorKind::BadRequest, &failure.to_string()))?;
    parse_request(&line)
}

/// Reads one line, which ends in a newline unless it was cut.
fn parse_request(line: &[u8]) -> Result<Request, Response> {
    let Some(line) = line.strip_suffix(b"\n") else {
        let message = if line.len() >= MAX_REQUEST_BYTES {
            format!("the request is longer than {MAX_REQUEST_BYTES} bytes")
        } else {
            "the request is not one whole line".to_owned()
        };
        return Err(error(ErrorKind::BadRequest, &message));
    };
    serde_json::from_slice(line)
        .map_err(|failure| error(ErrorKind::BadRequest, &failure.to_string()))
}

/// Asks the loop; `None` if it is stopping.
pub(crate) async fn call(daemon: &Daemon, query: Query) -> Option<Answer> {
    let (reply, answer) = oneshot::channel();
    daemon.calls.send(Call { query, reply }).await.ok()?;
    answer.await.ok()
}

async fn send(stream: &mut UnixStream, response: &Response) -> io::Result<()> {
    timeout(PATIENCE, stream.write_all(&encode(response)))
        .await
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

fn encode(response: &Response) -> Vec<u8> {
    // Every key of a response is a string, so that encoding cannot fail.
    let mut line = serde_json::to_vec(response).unwrap_or_default();
    line.push(b'\n');
    line
}

fn error(kind: ErrorKind, message: &str) -> Response {
    Response::Error {
        kind,
        message: message.to_owned(),
    }
}

fn stopping() -> Response {
    error(ErrorKind::Unavailable, "the daemon is stopping")
}

#[cfg(test)]
mod tests;
