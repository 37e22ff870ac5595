//! The asking side: one request, then the answers as they come.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use super::{Request, Response};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon listens at {path}: {source}", path = .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the daemon broke: {0}")]
    Broken(#[from] io::Error),
    /// The daemon speaks another language.
    #[error("the daemon answered something else, is it of another version? {0}")]
    Answer(#[from] serde_json::Error),
}

/// The answers to one request.
#[derive(Debug)]
pub struct Answers(BufReader<UnixStream>);

/// Asks the daemon at `socket`.
///
/// # Errors
///
/// If nobody listens or the connection breaks.
pub fn ask(socket: &Path, request: &Request) -> Result<Answers, ClientError> {
    let mut stream = UnixStream::connect(socket).map_err(|source| ClientError::Connect {
        path: socket.to_owned(),
        source,
    })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    match stream.write_all(&line) {
        // A daemon that refuses this client closes without listening; why is there to be read.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    Ok(Answers(BufReader::new(stream)))
}

impl Iterator for Answers {
    type Item = Result<Response, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).map_err(ClientError::from)),
            Err(error) => Some(Err(error.into())),
        }
    }
}
