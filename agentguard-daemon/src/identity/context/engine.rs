//! What a container engine knows of a container, asked over its socket.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use nix::libc;
use serde::Deserialize;
use tokio::{net::UnixStream, time::timeout};

use super::{Runtime, bounded};

/// Time for one question.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest answer.
const MAX_BYTES: usize = 1 << 20;

/// Where the engines of root listen.
pub(super) const SOCKETS: [(Runtime, &str); 2] = [
    (Runtime::Docker, "/run/docker.sock"),
    (Runtime::Podman, "/run/podman/podman.sock"),
];

/// What an engine knows of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inspected {
    pub(super) name: Option<String>,
    pub(super) image: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    /// Its first process, if it runs.
    pub(super) pid: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    id: String,
    name: String,
    config: Config,
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    image: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    pid: u32,
}

/// What the engine of `owner` at `socket` knows of the container `id`; `None` if it has no such
/// container.
pub(super) async fn inspect(socket: &Path, owner: u32, id: &str) -> io::Result<Option<Inspected>> {
    timeout(PATIENCE, async {
        let stream = connect(socket, owner).await?;
        let body = get(stream, &format!("/containers/{id}/json")).await?;
        body.map(|body| parse(&body, id)).transpose()
    })
    .await
    .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

/// Connects to a socket that only `owner` can have made, and on which `owner` listens.
async fn connect(socket: &Path, owner: u32) -> io::Result<UnixStream> {
    let pinned = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(socket)?;
    let metadata = pinned.metadata()?;
    let refused = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
    if !metadata.file_type().is_socket() || metadata.uid() != owner {
        return Err(refused("it is no socket of root"));
    }
    // By the descriptor: what stands at the path may be another by now.
    let path = PathBuf::from(format!("/proc/self/fd/{}", pinned.as_raw_fd()));
    let stream = UnixStream::connect(path).await?;
    if stream.peer_cred()?.uid() != owner {
        return Err(refused("it is not root who listens"));
    }
    Ok(stream)
}

async fn get(stream: UnixStream, path: &str) -> io::Result<Option<Bytes>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, "engine")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(io::Error::other(format!("it answered {status}"))),
        }
        let body = Limited::new(response.into_body(), MAX_BYTES);
        let collected = body.collect().await.map_err(io::Error::other)?;
        Ok(Some(collected.to_bytes()))
    }
    .await;
    connection.abort();
    answer
}

fn parse(body: &[u8], id: &str) -> io::Result<Inspected> {
    let answer: Answer = serde_json::from_slice(body)?;
    if answer.id != id {
        return Err(io::Error::other("it answered for another container"));
    }
    // Docker puts a slash before names.
    let name = answer.name.strip_prefix('/').unwrap_or(&answer.name);
    Ok(Inspected {
        name: bounded(name),
        image: answer.config.image.as_deref().and_then(bounded),
        labels: answer
            .config
            .labels
            .unwrap_or_default()
            .into_iter()
            .filter(|(key, value)| {
                bounded(key).is_some() && (value.is_empty() || bounded(value).is_some())
            })
            .collect(),
        pid: (answer.state.pid != 0).then_some(answer.state.pid),
    })
}

#[cfg(test)]
pub(super) mod tests;
