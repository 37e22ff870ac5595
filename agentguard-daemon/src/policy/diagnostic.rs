//! What is wrong with a policy, where, and how to mend it.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::source::Place;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy does less, or more, than it seems to say.
    Warning,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where; `None` for what concerns the policy as a whole.
    pub place: Option<Place>,
    /// How to mend it.
    pub help: Option<String>,
    /// Other places that explain it.
    pub related: Vec<Related>,
}

/// Another place that explains a finding.
#[derive(Clone, Debug)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// Where.
    pub place: Place,
}

/// All findings of one load.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostic {
    /// An error.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    /// A warning.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    fn new(severity: Severity, message: String) -> Self {
        Self {
            severity,
            message,
            place: None,
            help: None,
            related: Vec::new(),
        }
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Says how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Points at another place.
    #[must_use]
    pub fn related(mut self, message: impl Into<String>, place: Place) -> Self {
        self.related.push(Related {
            message: message.into(),
            place,
        });
        self
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = Group::with_title(level.primary_title(&self.message));
        let mut groups = vec![match &self.place {
            Some(place) => show(title, place),
            None => title,
        }];
        for related in &self.related {
            // The title is of our making, but it quotes names of the file.
            let message = annotate_snippets::normalize_untrusted_str(&related.message);
            let title = Level::NOTE.secondary_title(message);
            groups.push(show(Group::with_title(title), &related.place));
        }
        if let Some(help) = &self.help {
            let help = annotate_snippets::normalize_untrusted_str(help);
            groups.push(Group::with_title(Level::HELP.secondary_title(help)));
        }
        renderer.render(&groups)
    }
}

impl Diagnostics {
    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// All findings, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// `2 errors, 1 warning`; empty where there is nothing to say.
    #[must_use]
    pub fn summary(&self) -> String {
        let counted = |count: usize, noun: &str| match count {
            0 => None,
            1 => Some(format!("1 {noun}")),
            _ => Some(format!("{count} {noun}s")),
        };
        [
            counted(self.errors(), "error"),
            counted(self.warnings(), "warning"),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
    }

    /// Every finding with its file, line, column, caret and mend, an empty line between them.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        self.list
            .iter()
            .map(|diagnostic| diagnostic.render(&renderer) + "\n")
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Puts them in the order of files and lines. What has no place comes last.
    pub(super) fn sort(&mut self) {
        self.list.sort_by_cached_key(|diagnostic| {
            let place = diagnostic.place.as_ref();
            (
                place.is_none(),
                place.map(|place| (place.path().to_owned(), place.span().start)),
            )
        });
    }

    fn count(&self, severity: Severity) -> usize {
        self.list
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<T: IntoIterator<Item = Diagnostic>>(&mut self, diagnostics: T) {
        self.list.extend(diagnostics);
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Diagnostic", 7)?;
        object.serialize_field("severity", &self.severity)?;
        object.serialize_field("message", &self.message)?;
        serialize_place(&mut object, self.place.as_ref())?;
        object.serialize_field("help", &self.help)?;
        object.serialize_field("related", &self.related)?;
        object.end()
    }
}

impl Serialize for Related {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Related", 4)?;
        object.serialize_field("message", &self.message)?;
        serialize_place(&mut object, Some(&self.place))?;
        object.end()
    }
}

/// A file whose text could not be read has a path only.
fn serialize_place<S: serde::ser::SerializeStruct>(
    object: &mut S,
    place: Option<&Place>,
) -> Result<(), S::Error> {
    let file = place.map(|place| place.path().to_string_lossy().into_owned());
    let text = place.filter(|place| place.has_text());
    object.serialize_field("file", &file)?;
    object.serialize_field("line", &text.map(Place::line))?;
    object.serialize_field("column", &text.map(Place::column))
}

/// Bytes to each side of the caret that are shown of a long line.
const LINE_MARGIN: usize = 60;

fn show<'a>(group: Group<'a>, place: &'a Place) -> Group<'a> {
    let path = place.path().to_string_lossy();
    if !place.has_text() {
        return group.element(Origin::path(path));
    }
    let (line, span) = place.line_text();
    if line.len() <= 4 * LINE_MARGIN {
        return group.element(
            Snippet::source(line)
                .path(path)
                .line_start(place.line())
                .annotation(AnnotationKind::Primary.span(span)),
        );
    }
    // A file may be one line of megabytes: the part around the caret says as much.
    let window = window_of(line, &span);
    let shown = span.start - window.start..span.end.min(window.end) - window.start;
    group
        .element(
            Origin::path(path)
                .line(place.line())
                .char_column(place.column()),
        )
        .element(
            Snippet::source(line.get(window).unwrap_or_default())
                .line_start(place.line())
                .annotation(AnnotationKind::Primary.span(shown)),
        )
}

fn window_of(line: &str, span: &Range<usize>) -> Range<usize> {
    let mut from = span.start.saturating_sub(LINE_MARGIN);
    let mut to = (span.end.min(span.start + LINE_MARGIN) + LINE_MARGIN).min(line.len());
    while !line.is_char_boundary(from) {
        from -= 1;
    }
    while !line.is_char_boundary(to) {
        to += 1;
    }
    from..to
}
