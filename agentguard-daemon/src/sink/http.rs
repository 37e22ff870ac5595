//! HTTP to a receiver: one connection, kept between requests, over TLS where the URL says `https`.
//!
//! A connection is used again only after an answer of success that was read to its end. After an
//! error, and where a request was given up half-way, it is dropped with whatever was on its way, so
//! that no request ever follows a part of another.

use std::{error::Error, fmt, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::{http1, http2},
    header::{HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    SinkError,
    secret::{Secret, SecretPlace},
    tls::TlsSettings,
};
use crate::audit::escape::escape;

/// How long it may take until a connection is there, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request and its answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the end of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Most bytes of an answer: of its head, and of its body.
const ANSWER_BYTES: usize = 64 << 10;
/// Most bytes of an answer that are shown.
const SHOWN_BYTES: usize = 300;

/// Where a receiver is: `https://siem.example.com:8088/path`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url {
    is_encrypted: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// With its query; empty or from a slash.
    path: String,
}

impl fmt::Display for Url {
    /// Without its query, which may hold what is not for everybody.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        let path = self.path.split('?').next().unwrap_or_default();
        if self.host.contains(':') {
            write!(formatter, "{scheme}://[{}]:{}{path}", self.host, self.port)
        } else {
            write!(formatter, "{scheme}://{}:{}{path}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Url {
    type Error = String;

    // What follows "expected" becomes the mend.
    fn try_from(text: String) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no URL, expected `https://HOST:PORT/PATH`");
        let uri: Uri = text.parse().map_err(|_invalid| refuse())?;
        let is_encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refuse()),
        };
        let authority = uri.authority().ok_or_else(refuse)?;
        if authority.as_str().contains('@') {
            // It is not shown: it may hold a password.
            return Err(
                "the URL names a user, expected `https://HOST:PORT/PATH`: secrets have places \
                 of their own"
                    .to_owned(),
            );
        }
        let host = authority.host();
        let port = match authority.as_str()[host.len()..].strip_prefix(':') {
            Some(port) => port.parse().map_err(|_invalid| refuse())?,
            None if is_encrypted => 443,
            None => 80,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 {
            return Err(refuse());
        }
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        Ok(Self {
            is_encrypted,
            host: host.to_owned(),
            port,
            path: path.trim_end_matches('/').to_owned(),
        })
    }
}

impl Url {
    /// `HOST:PORT`.
    pub(super) fn receiver(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn scheme(&self) -> &'static str {
        if self.is_encrypted { "https" } else { "http" }
    }
}

/// The versions of HTTP that transports ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2, without an upgrade: gRPC.
    Two,
}

/// Sends requests to one receiver.
#[derive(Debug)]
pub(super) struct Client {
    url: Url,
    tls: Option<TlsSettings>,
    version: Version,
    connection: Option<Connection>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

impl Client {
    pub(super) const fn new(url: Url, tls: Option<TlsSettings>, version: Version) -> Self {
        Self {
            url,
            tls,
            version,
            connection: None,
        }
    }

    /// `HOST:PORT`.
    pub(super) fn receiver(&self) -> String {
        self.url.receiver()
    }

    /// POSTs `body` to `path` below the URL, and reads the answer, whatever it says.
    pub(super) async fn post(
        &mut self,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, SinkError> {
        let request = self.request(path, headers, body)?;
        // It is put back only once the answer is whole: this future may be dropped before.
        let kept = match self.connection.take() {
            Some(connection) => connection.if_usable().await,
            None => None,
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let exchange = async {
            let response = match connection.sender.send(request).await {
                Ok(response) => response,
                Err(error) => {
                    let cause = connection.cause_of(error).await;
                    return Err(self.unreachable("send to", &cause));
                }
            };
            self.read(response).await
        };
        let answer = timeout(ANSWER_TIMEOUT, exchange)
            .await
            .map_err(|_elapsed| self.timed_out(ANSWER_TIMEOUT))??;
        if answer.status.is_success() {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    /// Drops the connection, so that the next request makes a new one.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Ends the connection as its protocols want it, within a few seconds.
    pub(super) async fn close(&mut self) {
        if let Some(Connection { sender, mut task }) = self.connection.take() {
            drop(sender);
            timeout(CLOSE_TIMEOUT, &mut task.0).await.ok();
        }
    }

    /// The error of an answer that is none that a receiver of this protocol gives.
    pub(super) fn refusal(&self, answer: &str) -> SinkError {
        SinkError::Answer {
            receiver: self.receiver(),
            answer: escape(answer.as_bytes(), SHOWN_BYTES).text,
        }
    }

    /// The error of an answer by its status.
    pub(super) fn refused(&self, answer: &Answer) -> SinkError {
        let body = String::from_utf8_lossy(&answer.body);
        match body.trim() {
            "" => self.refusal(&answer.status.to_string()),
            said => self.refusal(&format!("{}: {said}", answer.status)),
        }
    }

    fn request(
        &self,
        path: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, SinkError> {
        let broken = |error: &dyn Error| {
            SinkError::Settings(format!(
                "no request can be made to {}: {error}",
                self.receiver()
            ))
        };
        let mut target = format!("{}{path}", self.url.path);
        if !target.starts_with('/') {
            target.insert(0, '/');
        }
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("agentguard/", env!("CARGO_PKG_VERSION"))),
        );
        let receiver = self.receiver();
        match self.version {
            Version::One => {
                let host = HeaderValue::try_from(receiver).map_err(|error| broken(&error))?;
                headers.insert(HOST, host);
            }
            Version::Two => target = format!("{}://{receiver}{target}", self.url.scheme()),
        }
        let mut request = Request::post(target)
            .body(Full::new(body))
            .map_err(|error| broken(&error))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn connect(&self) -> Result<Connection, SinkError> {
        let tls = match (&self.tls, self.url.is_encrypted) {
            (None, false) => None,
            (Some(_), false) => {
                return Err(SinkError::Settings(format!(
                    "`tls` is given for {}, but its URL is one without: write `https://`",
                    self.receiver()
                )));
            }
            (settings, true) => {
                let default = TlsSettings::default();
                let settings = settings.as_ref().unwrap_or(&default);
                let mut config = settings.client_config()?;
                let protocol = match self.version {
                    Version::One => &b"http/1.1"[..],
                    Version::Two => b"h2",
                };
                config.alpn_protocols = vec![protocol.to_vec()];
                Some((Arc::new(config), settings.name_of(&self.url.host)?))
            }
        };
        let opening = async {
            let unreachable = |error: &io::Error| self.unreachable("connect to", error);
            let stream = TcpStream::connect((self.url.host.as_str(), self.url.port))
                .await
                .map_err(|error| unreachable(&error))?;
            stream
                .set_nodelay(true)
                .map_err(|error| unreachable(&error))?;
            match tls {
                Some((config, name)) => {
                    let stream = TlsConnector::from(config)
                        .connect(name, stream)
                        .await
                        .map_err(|error| unreachable(&error))?;
                    start(stream, self.version).await
                }
                None => start(stream, self.version).await,
            }
            .map_err(|error| self.unreachable("connect to", &error))
        };
        timeout(CONNECT_TIMEOUT, opening)
            .await
            .map_err(|_elapsed| self.timed_out(CONNECT_TIMEOUT))?
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, SinkError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| self.unreachable("read the answer of", &*error))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        })
    }

    fn unreachable(&self, action: &'static str, error: &(dyn Error + 'static)) -> SinkError {
        SinkError::Unreachable {
            receiver: self.receiver(),
            action,
            source: io::Error::other(with_causes(error)),
        }
    }

    fn timed_out(&self, limit: Duration) -> SinkError {
        SinkError::TimedOut {
            receiver: self.receiver(),
            seconds: limit.as_secs(),
        }
    }
}

/// The value of an `authorization` header: `scheme`, and the secret at `place`.
pub(super) fn authorization(scheme: &str, place: &SecretPlace) -> Result<HeaderValue, SinkError> {
    let secret: Secret = place.read()?;
    let mut value = HeaderValue::try_from(format!("{scheme} {}", secret.reveal()))
        .map_err(|_invalid| SinkError::Settings(format!("the secret {place:?} fits no header")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What went wrong and why, down to the first cause.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        // Some repeat what caused them.
        if !text.ends_with(&why) {
            text.push_str(": ");
            text.push_str(&why);
        }
        cause = error.source();
    }
    text
}

/// A connection, and the task that moves its bytes.
#[derive(Debug)]
struct Connection {
    sender: Sender,
    task: Task,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// Ends with its connection: what was being written is not to arrive later.
#[derive(Debug)]
struct Task(JoinHandle<hyper::Result<()>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Itself, unless the receiver ended it meanwhile.
    async fn if_usable(mut self) -> Option<Self> {
        let ready: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>> = match &mut self.sender
        {
            Sender::One(sender) => Box::pin(sender.ready()),
            Sender::Two(sender) => Box::pin(sender.ready()),
        };
        let is_ready = timeout(CLOSE_TIMEOUT, ready)
            .await
            .is_ok_and(|it| it.is_ok());
        is_ready.then_some(self)
    }

    /// What ended the connection, where a request was told no more than that it did.
    async fn cause_of(&mut self, error: hyper::Error) -> hyper::Error {
        if !error.is_canceled() {
            return error;
        }
        match timeout(CLOSE_TIMEOUT, &mut self.task.0).await {
            Ok(Ok(Err(cause))) => cause,
            _ => error,
        }
    }
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        }
    }
}

/// Begins HTTP on a stream.
async fn start<S>(stream: S, version: Version) -> hyper::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    let (sender, task) = match version {
        Version::One => {
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(ANSWER_BYTES)
                .handshake(stream)
                .await?;
            let task = tokio::spawn(connection);
            (Sender::One(sender), task)
        }
        Version::Two => {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .handshake(stream)
                .await?;
            let task = tokio::spawn(connection);
            (Sender::Two(sender), task)
        }
    };
    Ok(Connection {
        sender,
        task: Task(task),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown() {
        for (text, receiver, path) in [
            ("https://siem.example.com/in", "siem.example.com:443", "/in"),
            ("http://127.0.0.1:8088/", "127.0.0.1:8088", ""),
            ("http://localhost", "localhost:80", ""),
            ("https://[::1]:9/a?b=c", "[::1]:9", "/a?b=c"),
        ] {
            let url = Url::try_from(text.to_owned()).unwrap();
            assert_eq!(
                (url.receiver().as_str(), url.path.as_str()),
                (receiver, path)
            );
        }
        for text in [
            "",
            "siem",
            "siem:8088",
            "ftp://siem/",
            "https://",
            "https://:1/",
            "https://a:b/",
            "https://a:0/",
            "https://a:70000/",
            "/path",
        ] {
            let said = Url::try_from(text.to_owned()).unwrap_err();
            assert!(
                said.contains("no URL, expected `https://"),
                "{text}: {said}"
            );
        }
        let said = Url::try_from("https://me:s3cret@siem/".to_owned()).unwrap_err();
        assert!(
            said.contains(", expected ") && !said.contains("s3cret"),
            "{said}"
        );
    }
}
