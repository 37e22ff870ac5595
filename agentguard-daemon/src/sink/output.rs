//! Writing to a file or to standard output, such that no two lines ever run together.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::SinkError;

/// What a pipe that polls writable accepts without blocking (`PIPE_BUF`).
const PIPE_BYTES: usize = 4_096;

/// An open target.
#[derive(Debug)]
pub(super) enum Output {
    /// Written in pieces that do not block, continued where the last stopped.
    Stdout(File),
    /// Written in whole lines.
    File {
        file: File,
        path: PathBuf,
        /// The file ends in half a line that could not be taken back.
        is_torn: bool,
    },
}

impl Output {
    pub(super) fn stdout() -> Result<Self, SinkError> {
        match io::stdout().as_fd().try_clone_to_owned() {
            Ok(fd) => Ok(Self::Stdout(fd.into())),
            Err(source) => Err(SinkError::Io {
                sink: "stdout".into(),
                action: "open",
                source,
            }),
        }
    }

    pub(super) fn file(path: &Path) -> Result<Self, SinkError> {
        let (file, is_torn) = open(path)?;
        Ok(Self::File {
            file,
            path: path.to_owned(),
            is_torn,
        })
    }

    pub(super) fn reopen(&mut self) -> Result<(), SinkError> {
        match self {
            Self::Stdout(_) => {}
            Self::File {
                file,
                path,
                is_torn,
            } => (*file, *is_torn) = open(path)?,
        }
        Ok(())
    }

    /// Writes some of `lines`, at least a byte. A file gets whole lines only.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => write_ready(stdout, lines),
            Self::File { file, is_torn, .. } => write_whole_lines(file, is_torn, lines),
        }
    }
}

fn open(path: &Path) -> Result<(File, bool), SinkError> {
    let sink = || path.display().to_string();
    let failed = |action| {
        move |source| SinkError::Io {
            sink: path.display().to_string(),
            action,
            source,
        }
    };
    let refused = |why| SinkError::Refused { path: sink(), why };
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(parent)
            .map_err(failed("make its directory"))?;
    }
    // Read access finds the end of the last line. Not blocking: a FIFO would wait for its reader.
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ELOOP) => refused("it is a symbolic link"),
            _ => failed("open")(source),
        })?;
    let metadata = file.metadata().map_err(failed("examine"))?;
    if !metadata.is_file() {
        return Err(refused("it is not a regular file"));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(refused("it belongs to another user"));
    }
    let is_torn = ends_torn(&file, metadata.len()).map_err(failed("read"))?;
    Ok((file, is_torn))
}

/// Whether an earlier writer was stopped within a line.
fn ends_torn(file: &File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else {
        return Ok(false);
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

fn write_ready(mut stdout: &File, lines: &[u8]) -> io::Result<usize> {
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO)? == 0 {
        return Err(ErrorKind::WouldBlock.into());
    }
    write_some(&mut stdout, &lines[..lines.len().min(PIPE_BYTES)])
}

fn write_whole_lines(mut file: &File, is_torn: &mut bool, lines: &[u8]) -> io::Result<usize> {
    if *is_torn {
        write_some(&mut file, b"\n")?;
        *is_torn = false;
    }
    let count = write_some(&mut file, lines)?;
    let written = &lines[..count];
    let whole = written
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |newline| newline + 1);
    if whole < count {
        let torn = (count - whole) as u64;
        *is_torn = take_back(file, torn, &written[whole..]).is_err();
    }
    if whole == 0 {
        return Err(ErrorKind::StorageFull.into());
    }
    Ok(whole)
}

/// Cuts the last `torn` bytes off `file`, if they are still the ones that were written.
fn take_back(file: &File, torn: u64, written: &[u8]) -> io::Result<()> {
    let end = file.metadata()?.len();
    let start = end.checked_sub(torn).ok_or(ErrorKind::UnexpectedEof)?;
    let mut last = vec![0; written.len()];
    file.read_exact_at(&mut last, start)?;
    if last != written {
        return Err(ErrorKind::InvalidData.into());
    }
    file.set_len(start)
}

fn write_some(mut target: impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match target.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
