//! Policy files as read from disk: which of them count, and where a place in them is.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs, io,
    io::Read as _,
    ops::Range,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    compiled::Location,
    diagnostic::{Diagnostic, Diagnostics},
};

/// Bytes that one policy file may have.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// One policy file.
pub struct Source {
    path: PathBuf,
    text: String,
    line_starts: Vec<usize>,
}

/// A range of bytes in a policy file.
#[derive(Clone)]
pub struct Place {
    source: Arc<Source>,
    span: Range<usize>,
}

/// The files of one load, in the order in which they are parsed, and what was wrong with reading
/// them.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The files that could be read.
    pub files: Vec<Arc<Source>>,
    /// Errors of those that could not.
    pub diagnostics: Diagnostics,
}

impl Source {
    /// A file with its text.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Arc<Self> {
        let text = text.into();
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(index, _)| index + 1))
            .collect();
        Arc::new(Self {
            path: path.into(),
            text,
            line_starts,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn line_index(&self, offset: usize) -> usize {
        self.line_starts
            .partition_point(|&start| start <= offset)
            .saturating_sub(1)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Source({})", self.path.display())
    }
}

impl Place {
    /// `span` of `source`, cut to what the text has.
    #[must_use]
    pub fn new(source: &Arc<Source>, span: Range<usize>) -> Self {
        let end = span.end.min(source.text.len());
        Self {
            source: Arc::clone(source),
            span: span.start.min(end)..end,
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Bytes of the file's text.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Line of its start, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.source.line_index(self.span.start) + 1
    }

    /// Column of its start in characters, from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.before().chars().count() + 1
    }

    /// File, line and column.
    #[must_use]
    pub fn location(&self) -> Location {
        Location {
            file: self.path().to_owned(),
            line: self.line(),
            column: self.column(),
        }
    }

    /// Whether there is text to show: a file that could not be read has none.
    pub(super) fn has_text(&self) -> bool {
        !self.source.text.is_empty()
    }

    /// The line that it starts on, and its bytes within that line.
    pub(super) fn line_text(&self) -> (&str, Range<usize>) {
        let start = self.line_start();
        let rest = self.source.text.get(start..).unwrap_or_default();
        let line = rest.lines().next().unwrap_or_default();
        let from = (self.span.start - start).min(line.len());
        let to = (self.span.end - start).clamp(from, line.len());
        (line, from..to)
    }

    fn line_start(&self) -> usize {
        let index = self.source.line_index(self.span.start);
        self.source.line_starts.get(index).copied().unwrap_or(0)
    }

    fn before(&self) -> &str {
        self.source
            .text
            .get(self.line_start()..self.span.start)
            .unwrap_or_default()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}:{}",
            self.path().display(),
            self.line(),
            self.column()
        )
    }
}

/// Reads the drop-in directories, given in rising precedence.
///
/// Of files with the same name the one in the higher directory counts; a link to `/dev/null` there
/// masks the name. The union is in the order of file names. A directory that does not exist holds
/// nothing; names with a leading dot are not looked at.
#[must_use]
pub fn read_directories(directories: &[PathBuf]) -> Sources {
    let mut sources = Sources::default();
    let mut chosen: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in directories {
        match list(directory) {
            Ok(entries) => chosen.extend(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => sources.refuse(directory, &error.into()),
        }
    }
    for path in chosen.into_values() {
        if !is_mask(&path) {
            sources.read(&path);
        }
    }
    sources
}

/// Reads files as named, and directories as [`read_directories`] does. What does not exist is an
/// error.
#[must_use]
pub fn read_paths(paths: &[PathBuf]) -> Sources {
    let mut sources = Sources::default();
    let mut directories = Vec::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => directories.push(path.clone()),
            Ok(_) => sources.read(path),
            Err(error) => sources.refuse(path, &error.into()),
        }
    }
    let found = read_directories(&directories);
    sources.files.extend(found.files);
    sources.diagnostics.extend(found.diagnostics);
    sources
}

impl Sources {
    /// Files that are in memory already.
    #[must_use]
    pub fn from_files(files: Vec<Arc<Source>>) -> Self {
        Self {
            files,
            diagnostics: Diagnostics::default(),
        }
    }

    fn read(&mut self, path: &Path) {
        match read_file(path) {
            Ok(text) => self.files.push(Source::new(path, text)),
            Err(unreadable) => self.refuse(path, &unreadable),
        }
    }

    fn refuse(&mut self, path: &Path, unreadable: &Unreadable) {
        // The text before the first bad byte is shown, nothing after it.
        let text = match unreadable {
            Unreadable::Encoding { readable } => readable.clone(),
            Unreadable::Io(_)
            | Unreadable::NotRegular(_)
            | Unreadable::TooLarge
            | Unreadable::ByteOrderMark(_) => String::new(),
        };
        let end = text.len();
        let place = Place::new(&Source::new(path, text), end..end);
        self.diagnostics.push(
            Diagnostic::error(unreadable.to_string())
                .at(place)
                .help(unreadable.mend()),
        );
    }
}

/// Why a file does not count.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("this is {0}, not a regular file")]
    NotRegular(&'static str),
    #[error("the file is larger than {} MiB", MAX_FILE_BYTES >> 20)]
    TooLarge,
    #[error("the file starts with {0}")]
    ByteOrderMark(&'static str),
    #[error("the file is not UTF-8 from here on")]
    Encoding { readable: String },
}

impl Unreadable {
    fn mend(&self) -> &'static str {
        match self {
            Self::Io(_) => "make the file readable for agentguard, or remove it",
            Self::NotRegular(_) => {
                "put a regular file here, or a link to /dev/null to mask this name"
            }
            Self::TooLarge => "split it into several files",
            Self::ByteOrderMark(_) => "save it as UTF-8 without a byte order mark",
            Self::Encoding { .. } => "save it as UTF-8",
        }
    }
}

fn list(directory: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().map(OsString::from) else {
            continue;
        };
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "toml")
        {
            entries.push((name, path));
        }
    }
    Ok(entries)
}

fn is_mask(path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

fn read_file(path: &Path) -> Result<String, Unreadable> {
    // Looked at before it is opened: to open a device can have effects of its own.
    regular(&fs::metadata(path)?)?;
    // It may have become a FIFO since: without O_NONBLOCK opening one waits for a writer.
    let file = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    if metadata.size() > MAX_FILE_BYTES {
        return Err(Unreadable::TooLarge);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Unreadable::TooLarge);
    }
    text_of(bytes)
}

fn regular(metadata: &fs::Metadata) -> Result<(), Unreadable> {
    let kind = metadata.file_type();
    let found = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Unreadable::NotRegular(found))
}

fn text_of(bytes: Vec<u8>) -> Result<String, Unreadable> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(Unreadable::ByteOrderMark("a UTF-8 byte order mark"));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Unreadable::ByteOrderMark("a UTF-16 byte order mark"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let mut bytes = error.into_bytes();
        bytes.truncate(valid);
        Unreadable::Encoding {
            readable: String::from_utf8_lossy(&bytes).into_owned(),
        }
    })
}

#[cfg(test)]
mod tests;
