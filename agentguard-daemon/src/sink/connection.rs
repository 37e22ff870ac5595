//! A stream to a receiver, over TCP or TLS.

use std::{
    fmt,
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    task::yield_now,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{SinkError, tls::TlsSettings};

/// How long connecting may take, with the handshake of TLS: 10 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a receiver may let us wait, for an answer or for room to write: 30 s.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an orderly end may take: 3 s.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a receiver has for its word on our certificate, which in TLS 1.3 follows the handshake.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(1);

/// A receiver that is gone without a word is noticed after 60 + 4 × 15 s of silence, or after 30 s of
/// bytes that it does not confirm.
const KEEPALIVE_IDLE_S: u32 = 60;
const KEEPALIVE_INTERVAL_S: u32 = 15;
const KEEPALIVE_COUNT: u32 = 4;
const UNCONFIRMED_MS: u32 = 30_000;

/// Where a receiver listens: `HOST:PORT`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        parse(&text).ok_or_else(|| {
            format!("`{text}` is no address, expected `HOST:PORT`, as in `siem.example.com:6514`")
        })
    }
}

fn parse(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok()?;
            inner
        }
        None => host,
    };
    let is_bare = text.starts_with('[')
        || (!host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')));
    let port = port.parse().ok().filter(|&port| port != 0)?;
    is_bare.then(|| Address {
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// What both kinds of stream can do.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl Duplex for TcpStream {}
impl Duplex for TlsStream<TcpStream> {}

/// An open stream. Dropping it ends it at once; [`Connection::close`] ends it in order.
pub(super) struct Connection {
    receiver: String,
    stream: Box<dyn Duplex>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Connection({})", self.receiver)
    }
}

impl Connection {
    /// Connects, and shakes hands where there are settings of TLS.
    pub(super) async fn open(
        address: &Address,
        tls: Option<&TlsSettings>,
    ) -> Result<Self, SinkError> {
        let receiver = address.to_string();
        match timeout(CONNECT_TIMEOUT, connect(address, &receiver, tls)).await {
            Ok(stream) => Ok(Self {
                stream: stream?,
                receiver,
            }),
            Err(_elapsed) => Err(SinkError::TimedOut {
                receiver,
                seconds: CONNECT_TIMEOUT.as_secs(),
            }),
        }
    }

    /// Whom it leads to.
    pub(super) fn receiver(&self) -> &str {
        &self.receiver
    }

    /// Writes all of `bytes`. Where it fails or is dropped, some of them may have been written: the
    /// connection is of no more use.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(ANSWER_TIMEOUT, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => {
                // Why it is closed, the receiver may have said in an alert of TLS.
                let said = self.examine().await.err();
                Err(self.failed(said.filter(is_alert).unwrap_or(source)))
            }
            Err(_elapsed) => Err(self.timed_out()),
        }
    }

    /// Reads some bytes to the end of `buffer`; a receiver that ends the stream is an error.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> Result<(), SinkError> {
        let mut piece = [0; 4_096];
        match timeout(ANSWER_TIMEOUT, self.stream.read(&mut piece)).await {
            Ok(Ok(0)) => Err(self.failed(closed())),
            Ok(Ok(count)) => {
                buffer.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Ok(Err(source)) => Err(self.failed(source)),
            Err(_elapsed) => Err(self.timed_out()),
        }
    }

    /// An error if the receiver has ended the stream: what is written after that is lost without one.
    /// What it said meanwhile is dropped, its bytes are counted.
    pub(super) async fn check(&mut self) -> Result<usize, SinkError> {
        self.examine().await.map_err(|source| self.failed(source))
    }

    async fn examine(&mut self) -> io::Result<usize> {
        // Events of the socket are taken in between turns of tasks.
        yield_now().await;
        let mut dropped = 0;
        // A receiver that talks does not keep us here for ever.
        for _ in 0..16 {
            match try_read(&mut self.stream).await? {
                None => break,
                Some(0) => return Err(closed()),
                Some(count) => dropped += count,
            }
        }
        Ok(dropped)
    }

    /// Ends the stream, so that the receiver takes in all that was written, and knows that it was all:
    /// `close_notify` in TLS, and then it is waited until the receiver ends it, too. To close at once
    /// would reset the connection where there is something to read, and lose what is on its way.
    pub(super) async fn close(mut self) {
        let ending = async {
            self.stream.shutdown().await?;
            let mut piece = [0; 4_096];
            for _ in 0..256 {
                if self.stream.read(&mut piece).await? == 0 {
                    break;
                }
            }
            io::Result::Ok(())
        };
        // It was the last that we wanted of it.
        drop(timeout(CLOSE_TIMEOUT, ending).await);
    }

    fn failed(&self, source: io::Error) -> SinkError {
        // In TLS the end without `close_notify` has an error of its own, with a link in it.
        let source = if source.kind() == ErrorKind::UnexpectedEof {
            closed()
        } else {
            source
        };
        SinkError::Unreachable {
            receiver: self.receiver.clone(),
            action: "send to",
            source,
        }
    }

    fn timed_out(&self) -> SinkError {
        SinkError::TimedOut {
            receiver: self.receiver.clone(),
            seconds: ANSWER_TIMEOUT.as_secs(),
        }
    }
}

async fn connect(
    address: &Address,
    receiver: &str,
    tls: Option<&TlsSettings>,
) -> Result<Box<dyn Duplex>, SinkError> {
    let failed = |action| {
        move |source| SinkError::Unreachable {
            receiver: receiver.to_owned(),
            action,
            source,
        }
    };
    // Files that are wrong are told of also where nobody listens.
    let tls = match tls {
        Some(settings) => Some((settings.client_config()?, settings.name_of(&address.host)?)),
        None => None,
    };
    let stream = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(failed("connect to"))?;
    keep_alive(&stream).map_err(failed("set up the connection to"))?;
    let Some((config, name)) = tls else {
        return Ok(Box::new(stream));
    };
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector
        .connect(name, stream)
        .await
        .map_err(failed("agree on TLS with"))?;
    await_verdict(&mut stream)
        .await
        .map_err(failed("agree on TLS with"))?;
    Ok(Box::new(stream))
}

/// In TLS 1.3 a client is done before the receiver has seen its certificate. What is sent to one that
/// refuses it would be lost: so it is waited for its alert, or the tickets that it sends if content.
async fn await_verdict(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let is_late = stream.get_ref().1.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
    if !is_late {
        return Ok(());
    }
    let verdict = poll_fn(|context| {
        let mut piece = [0; 1];
        let mut piece = ReadBuf::new(&mut piece);
        match Pin::new(&mut *stream).poll_read(context, &mut piece) {
            Poll::Ready(Ok(())) if piece.filled().is_empty() => Poll::Ready(Err(closed())),
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending if stream.get_ref().1.tls13_tickets_received() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    });
    // Not every receiver has tickets.
    timeout(VERDICT_TIMEOUT, verdict).await.unwrap_or(Ok(()))
}

/// Reads what is there: how much, or nothing yet.
async fn try_read(stream: &mut Box<dyn Duplex>) -> io::Result<Option<usize>> {
    let mut piece = [0; 1_024];
    let mut piece = ReadBuf::new(&mut piece);
    poll_fn(|context| {
        let result = match Pin::new(&mut *stream).poll_read(context, &mut piece) {
            Poll::Ready(Ok(())) => Ok(Some(piece.filled().len())),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(None),
        };
        Poll::Ready(result)
    })
    .await
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNCONFIRMED_MS)?;
    Ok(())
}

fn closed() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it has closed the connection")
}

fn is_alert(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        for (text, host, port) in [
            ("siem.example.com:6514", "siem.example.com", 6514),
            ("127.0.0.1:601", "127.0.0.1", 601),
            ("[::1]:20514", "::1", 20514),
            ("log_host-1:65535", "log_host-1", 65535),
        ] {
            let address = Address::try_from(text.to_owned()).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "",
            "siem",
            "siem:",
            ":514",
            "siem:0",
            "siem:65536",
            "siem:-1",
            "::1:514",
            "[::1]",
            "[siem]:514",
            "a b:514",
            "tcp://siem:514",
            "siem:514/x",
            "[::1:514",
            "[]:514",
        ] {
            let said = Address::try_from(text.to_owned()).unwrap_err();
            assert!(said.contains(", expected `HOST:PORT`"), "{said}");
        }
    }

    async fn pair() -> (Connection, TcpStream, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::try_from(listener.local_addr().unwrap().to_string()).unwrap();
        let connection = Connection::open(&address, None).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        (connection, peer, address)
    }

    #[tokio::test]
    async fn a_peer_that_has_gone_is_noticed_before_anything_is_written() {
        let (mut connection, peer, address) = pair().await;
        assert_eq!(connection.check().await.unwrap(), 0);
        drop(peer);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let said = connection.check().await.unwrap_err().to_string();
        assert_eq!(
            said,
            format!("cannot send to {address}: it has closed the connection")
        );
        // And nobody listens any more.
        let said = Connection::open(&address, None).await.unwrap_err();
        assert!(said.to_string().contains("refused"), "{said}");
    }

    #[tokio::test]
    async fn closing_lets_the_peer_have_everything() {
        let (mut connection, mut peer, _) = pair().await;
        // Unread, it would make the kernel reset the connection.
        peer.write_all(b"welcome").await.unwrap();
        connection.write(&[7; 100_000]).await.unwrap();
        let reading = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut received = Vec::new();
            peer.read_to_end(&mut received).await.map(|_| received)
        });
        connection.close().await;
        assert_eq!(reading.await.unwrap().unwrap(), [7; 100_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_does_not_hold_us() {
        let (mut connection, _peer, _) = pair().await;
        let megabytes = vec![0; 64 << 20];
        let said = connection.write(&megabytes).await.unwrap_err().to_string();
        assert!(said.ends_with("did not answer within 30 s"), "{said}");
        connection.close().await;
    }
}
