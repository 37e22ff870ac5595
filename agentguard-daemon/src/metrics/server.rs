//! The listening side: `GET /metrics` over HTTP/1.1, one request for each connection.
//!
//! The daemon's loop is asked as any client asks for the status, at most once a second however many
//! scrape; the text is made outside of it.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as BoundListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderName},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use crate::{
    config::Endpoint,
    control::{
        self,
        server::{Answer, Daemon, Query, call},
    },
    metrics::render,
};

/// Connections that are served at a time; more wait in the kernel's queue.
const SEATS: usize = 16;

/// How long a connection may last, from its first byte to the last of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that the head of a request may have; the least that hyper takes.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// How long an answer stays good for others.
const FRESH: Duration = Duration::from_secs(1);

/// How long until a place that could not be listened at is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the daemon ends. While the endpoint cannot be listened at, say because somebody has
/// the port, the daemon does without: enforcement is worth more than its metrics.
pub async fn serve(endpoint: Endpoint, daemon: Daemon) {
    let scraper = Arc::new(Scraper {
        daemon,
        last: Mutex::new(None),
    });
    let mut is_told = false;
    let listener = loop {
        match Listener::bind(&endpoint) {
            Ok(listener) => break listener,
            Err(error) if !is_told => {
                tracing::error!(%error, ?endpoint, "no metrics for now");
                is_told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY_PAUSE).await;
    };
    tracing::info!(?endpoint, "metrics are served");
    let seats = Arc::new(Semaphore::new(SEATS));
    // Nobody closes the seats.
    while let Ok(seat) = Arc::clone(&seats).acquire_owned().await {
        if listener.attend(seat, &scraper).await.is_err() {
            // Out of descriptors: others need the time to give some back.
            sleep(Duration::from_millis(100)).await;
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Listen(address) => bind_tcp(*address).map(Self::Tcp),
            Endpoint::Socket(path) => bind_unix(path).map(Self::Unix),
        }
    }

    /// Accepts one connection, and leaves it to a task.
    async fn attend(&self, seat: OwnedSemaphorePermit, scraper: &Arc<Scraper>) -> io::Result<()> {
        let scraper = Arc::clone(scraper);
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(attend(stream, seat, scraper));
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(attend(stream, seat, scraper));
            }
        }
        Ok(())
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = BoundListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    control::server::listen(path, control::server::Audience::Readers)
}

async fn attend<S>(stream: S, seat: OwnedSemaphorePermit, scraper: Arc<Scraper>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(|request| scraper.respond(request));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "no request for metrics"),
        Err(_) => tracing::debug!("a request for metrics took too long"),
    }
    drop(seat);
}

/// Asks the daemon on behalf of all connections.
struct Scraper {
    daemon: Daemon,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Scraper {
    async fn respond(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.uri().path() != "/metrics" {
            return Ok(plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
        }
        if request.method() != Method::GET {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are for GET\n");
            insert(&mut refusal, ALLOW, "GET");
            return Ok(refusal);
        }
        Ok(match self.text().await {
            Ok(text) => {
                let mut response = Response::new(Full::new(text));
                insert(&mut response, CONTENT_TYPE, OPEN_METRICS);
                response
            }
            Err(message) => plain(StatusCode::SERVICE_UNAVAILABLE, message),
        })
    }

    /// The text of now or of a moment ago. Whoever asks meanwhile waits for the same.
    async fn text(&self) -> Result<Bytes, String> {
        let mut last = self.last.lock().await;
        if let Some((time, text)) = &*last
            && time.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let status = match call(&self.daemon, Query::Status).await {
            Some(Answer::Response(control::Response::Status(status))) => *status,
            Some(Answer::Response(control::Response::Error { message, .. })) => {
                return Err(format!("{message}\n"));
            }
            Some(_) | None => return Err("the daemon is stopping\n".to_owned()),
        };
        let time = Instant::now();
        let text = tokio::task::spawn_blocking(|| render(status))
            .await
            .map_err(|error| format!("{error}\n"))?
            .map_err(|error| format!("{error}\n"))?;
        let text = Bytes::from(text);
        *last = Some((time, text.clone()));
        Ok(text)
    }
}

fn plain(status: StatusCode, message: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(message.into()));
    *response.status_mut() = status;
    insert(&mut response, CONTENT_TYPE, TEXT);
    response
}

fn insert(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &'static str) {
    let value = hyper::header::HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
}

#[cfg(test)]
mod tests;
