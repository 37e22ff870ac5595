//! To a syslog server: messages of RFC 5424 over TCP, TLS or a local socket.
//!
//! A message is `<PRI>1 TIME HOSTNAME agentguard PID ocsf [meta sequenceId="N"] {"…"}`: the JSON line as
//! it is in the file, and before it the number of the record, by which gaps are found (it begins anew
//! with 1 after 2,147,483,647). The time is that of the event, in UTC.
//!
//! * `address = "HOST:PORT"`: TCP, each message preceded by its length (RFC 6587, octet counting).
//! * The same with a `tls` table: RFC 5425, which asks for mutual authentication, thus `ca`,
//!   `certificate` and `key`.
//! * `socket = "/dev/log"`: a datagram each.
//!
//! # Not acknowledged
//!
//! Syslog has no answers. A record counts as delivered once the kernel of this host took it, and is lost
//! where the connection or the receiver dies before it was read and stored: all that the two kernels and
//! the receiver held at that time, which can be megabytes. Of 10,000 records sent at once to a receiver
//! that was killed half-way, 4,000 to 7,000 were lost. A receiver that has closed the connection is
//! noticed before each batch, not within it. Where nothing may be lost, use RELP.
//!
//! A batch that was cut off is sent again from the last piece that was written whole, so the receiver may
//! get records twice.
//!
//! Receivers cut what they find too long: a line has up to 8 KiB, and rsyslog's own bound for the whole
//! message is 8 KiB, too, until `maxMessageSize` says otherwise.

mod message;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::{net::UnixDatagram, time::timeout};

pub use self::message::{Facility, Hostname};
pub(super) use self::message::{Origin, severity};
use super::{
    Progress, Record, SinkError,
    connection::{ANSWER_TIMEOUT, Address, Connection},
    tls::TlsSettings,
};

/// Bytes after which a piece of a batch is written.
const PIECE_BYTES: usize = 64 << 10;

/// The table of a syslog server.
///
/// | key | type | default |
/// |---|---|---|
/// | `address` | `HOST:PORT` | this or `socket` |
/// | `tls` | table | none: plain TCP |
/// | `socket` | path | this or `address` |
/// | `facility` | `user`, `daemon`, `auth`, `authpriv`, `local0` … `local7` | `local0` |
/// | `hostname` | text | the name of the host |
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Table")]
pub struct SyslogSettings {
    /// Where it listens.
    pub server: Server,
    /// What messages are filed under.
    pub facility: Facility,
    /// Who they are from; `None` is the name of the host.
    pub hostname: Option<Hostname>,
}

/// Where a syslog server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// On TCP, with TLS if there are settings for it.
    Stream(Address, Option<TlsSettings>),
    /// On a unix socket for datagrams.
    Socket(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Table {
    address: Option<Address>,
    tls: Option<TlsSettings>,
    socket: Option<PathBuf>,
    #[serde(default)]
    facility: Facility,
    hostname: Option<Hostname>,
}

impl TryFrom<Table> for SyslogSettings {
    type Error = &'static str;

    // What follows "expected" becomes the mend.
    fn try_from(table: Table) -> Result<Self, Self::Error> {
        let server = match (table.address, table.socket, table.tls) {
            (Some(address), None, tls) => Server::Stream(address, tls),
            (None, Some(path), None) => Server::Socket(path),
            (None, Some(_), Some(_)) => {
                return Err("a `socket` has no TLS, expected `address` beside `tls`");
            }
            (None, None, _) => {
                return Err("neither `address` nor `socket` is given, expected one of them");
            }
            (Some(_), Some(_), _) => {
                return Err("both `address` and `socket` are given, expected one of them");
            }
        };
        Ok(Self {
            server,
            facility: table.facility,
            hostname: table.hostname,
        })
    }
}

/// A syslog server.
#[derive(Debug)]
pub struct Syslog {
    server: Server,
    origin: Origin,
    link: Option<Link>,
}

#[derive(Debug)]
enum Link {
    Stream(Connection),
    Socket(UnixDatagram),
}

impl Syslog {
    /// A server that is connected to once there is something to deliver.
    #[must_use]
    pub fn new(settings: SyslogSettings) -> Self {
        Self {
            server: settings.server,
            origin: Origin::new(settings.facility, settings.hostname),
            link: None,
        }
    }

    /// Sends `records` in order, and returns once they are written. A dropped call ends the connection.
    ///
    /// # Errors
    ///
    /// If the server is not there, refuses TLS, goes away, or does not read for 30 s.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        // Taken out, it is gone where this fails or is dropped: nothing follows half a message.
        let mut link = match self.link.take() {
            Some(Link::Stream(mut connection)) => match connection.check().await {
                Ok(_) => Link::Stream(connection),
                // Servers end connections that rest, or themselves: no failure, so far.
                Err(_closed) => self.connect().await?,
            },
            Some(socket) => socket,
            None => self.connect().await?,
        };
        match &mut link {
            Link::Stream(connection) => {
                write_frames(&self.origin, connection, records, progress).await?;
            }
            Link::Socket(socket) => {
                for record in records {
                    let path = self.server.path();
                    send_datagram(socket, path, &self.origin.message(record)).await?;
                    progress.done += 1;
                }
            }
        }
        self.link = Some(link);
        Ok(())
    }

    /// Ends the connection, so that the server takes in all that was written. Takes up to 3 s.
    pub async fn close(&mut self) {
        if let Some(Link::Stream(connection)) = self.link.take() {
            connection.close().await;
        }
    }

    async fn connect(&self) -> Result<Link, SinkError> {
        match &self.server {
            Server::Stream(address, tls) => Connection::open(address, tls.as_ref())
                .await
                .map(Link::Stream),
            Server::Socket(path) => open_datagram(path).map(Link::Socket),
        }
    }
}

impl Server {
    fn path(&self) -> &Path {
        match self {
            Self::Socket(path) => path,
            Self::Stream(..) => Path::new(""),
        }
    }
}

/// Writes records as frames of RFC 6587, pieces of many at a time.
async fn write_frames(
    origin: &Origin,
    connection: &mut Connection,
    records: &[Record],
    progress: &mut Progress,
) -> Result<(), SinkError> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut count = 0;
    for (position, record) in records.iter().enumerate() {
        push_frame(&mut piece, &origin.message(record));
        count += 1;
        if piece.len() >= PIECE_BYTES || position + 1 == records.len() {
            connection.write(&piece).await?;
            progress.done += count;
            piece.clear();
            count = 0;
        }
    }
    Ok(())
}

fn push_frame(piece: &mut Vec<u8>, message: &[u8]) {
    piece.extend_from_slice(message.len().to_string().as_bytes());
    piece.push(b' ');
    piece.extend_from_slice(message);
}

/// A socket that is connected to the one at `path`.
pub(super) fn open_datagram(path: &Path) -> Result<UnixDatagram, SinkError> {
    UnixDatagram::unbound()
        .and_then(|socket| socket.connect(path).map(|()| socket))
        .map_err(|source| SinkError::Unreachable {
            receiver: path.display().to_string(),
            action: "connect to",
            source,
        })
}

/// Sends one datagram, waiting while the receiver's queue is full.
async fn send_datagram(
    socket: &UnixDatagram,
    path: &Path,
    datagram: &[u8],
) -> Result<(), SinkError> {
    match timeout(ANSWER_TIMEOUT, socket.send(datagram)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => Err(SinkError::Unreachable {
            receiver: path.display().to_string(),
            action: "send to",
            source,
        }),
        Err(_elapsed) => Err(SinkError::TimedOut {
            receiver: path.display().to_string(),
            seconds: ANSWER_TIMEOUT.as_secs(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_one_server() {
        let parse = |text: &str| toml::from_str::<SyslogSettings>(text);
        let settings = parse("address = \"siem:6514\"\n[tls]\nca = \"/ca\"\n").unwrap();
        let Server::Stream(address, Some(tls)) = &settings.server else {
            panic!("{settings:?}");
        };
        assert_eq!(address.to_string(), "siem:6514");
        assert_eq!(tls.ca.as_deref(), Some(Path::new("/ca")));
        assert_eq!(
            (settings.facility, settings.hostname),
            (Facility::Local0, None)
        );
        let settings =
            parse("socket = \"/dev/log\"\nfacility = \"authpriv\"\nhostname = \"h\"").unwrap();
        assert_eq!(settings.server, Server::Socket("/dev/log".into()));
        assert_eq!(settings.facility, Facility::AuthPriv);

        for (text, wanted) in [
            (
                "",
                "neither `address` nor `socket` is given, expected one of them",
            ),
            (
                "address = \"a:1\"\nsocket = \"/x\"",
                "both `address` and `socket`",
            ),
            (
                "socket = \"/x\"\ntls = {}",
                "has no TLS, expected `address`",
            ),
            ("address = \"a\"", "`a` is no address, expected `HOST:PORT`"),
            (
                "address = \"a:1\"\nfacility = \"x\"",
                "expected one of `user`",
            ),
            ("address = \"a:1\"\nhostname = \"\"", "expected 1 to 255"),
            ("address = \"a:1\"\nport = 1", "unknown field `port`"),
            (
                "address = \"a:1\"\ntls = { key-file = \"\" }",
                "unknown field `key-file`",
            ),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(wanted), "{wanted} for {text:?}: {said}");
        }
    }

    #[test]
    fn frames_are_counted_in_bytes() {
        let mut piece = Vec::new();
        for message in ["a", "ü ü", ""] {
            push_frame(&mut piece, message.as_bytes());
        }
        assert_eq!(piece, "1 a5 ü ü0 ".as_bytes());
    }
}
