//! A file of JSON lines: no two lines ever run together, and none is half there.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc;
use serde::Deserialize;

use super::{
    Progress, Record, SinkError,
    rotate::{self, Rotation},
};

/// The `file` table of a sink.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileSettings {
    /// The file. It is opened anew at a reload, for those who rotate it themselves.
    pub path: PathBuf,
    /// When to begin a new one. Without it, never.
    pub rotate: Option<Rotation>,
}

/// A file that lines are appended to.
#[derive(Debug)]
pub struct FileSink {
    settings: FileSettings,
    open: Option<File>,
}

impl FileSink {
    /// To the file of these settings, which is opened when there is something to write: made with mode
    /// 0640 if there is none, its directory with 0750.
    ///
    /// A symbolic link, anything that is not a regular file, and a file of another owner are
    /// refused: whoever made them would choose where the audit trail goes.
    #[must_use]
    pub const fn new(settings: FileSettings) -> Self {
        Self {
            settings,
            open: None,
        }
    }

    /// Whether it can be opened.
    ///
    /// # Errors
    ///
    /// If not.
    pub fn check(&mut self) -> Result<(), SinkError> {
        self.ready().map(|_| ())
    }

    /// Appends `records`, whole lines only.
    ///
    /// # Errors
    ///
    /// If not all could be written.
    pub fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        if let Some(rotation) = &self.settings.rotate
            && rotate::is_due(rotation, &self.settings.path)
        {
            self.open = None;
            rotate::rotate(rotation, &self.settings.path)
                .map_err(io_error(&self.settings.path, "rotate"))?;
        }
        let mut lines = Vec::new();
        for record in records {
            lines.extend_from_slice(record.line.as_bytes());
            lines.push(b'\n');
        }
        let path = self.settings.path.clone();
        let file = self.ready()?;
        let mut rest = lines.as_slice();
        while !rest.is_empty() {
            let count = match write_whole_lines(file, rest) {
                Ok(count) => count,
                Err(source) => {
                    // Opened anew, half a line at its end is cut off.
                    self.open = None;
                    return Err(io_error(&path, "write to")(source));
                }
            };
            progress.done += rest[..count].iter().filter(|&&byte| byte == b'\n').count();
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Lets go of the file.
    pub fn close(&mut self) {
        self.open = None;
    }

    fn ready(&mut self) -> Result<&File, SinkError> {
        let file = match self.open.take() {
            Some(file) => file,
            None => open(&self.settings.path)?,
        };
        Ok(self.open.insert(file))
    }
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SinkError {
    let target = path.display().to_string();
    move |source| SinkError::Io {
        target,
        action,
        source,
    }
}

fn open(path: &Path) -> Result<File, SinkError> {
    let failed = |action| io_error(path, action);
    let refused = |why| SinkError::Refused {
        path: path.display().to_string(),
        why,
    };
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(parent)
            .map_err(failed("make the directory of"))?;
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
    cut_torn_tail(&file, metadata.len()).map_err(failed("read the end of"))?;
    Ok(file)
}

/// Cuts off what an earlier writer that was stopped within a line has left of it: that record comes again.
fn cut_torn_tail(file: &File, length: u64) -> io::Result<()> {
    const PIECE: u64 = 4_096;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        let mut piece = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(&mut piece, start)?;
        if let Some(newline) = piece.iter().rposition(|&byte| byte == b'\n') {
            end = start + newline as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(())
}

fn write_whole_lines(mut file: &File, lines: &[u8]) -> io::Result<usize> {
    let count = write_some(&mut file, lines)?;
    let written = &lines[..count];
    let whole = written
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |newline| newline + 1);
    if whole < count {
        take_back(file, (count - whole) as u64, &written[whole..])?;
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

pub(super) fn write_some(mut target: impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match target.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
