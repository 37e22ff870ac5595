//! Globs, each over its own kind of name.

use std::ops::Range;

use globset::{Glob, GlobBuilder};
use toml::de::DeTable;

use super::reader::Reader;

/// Endings of the units that have cgroups.
const UNIT_TYPES: [&str; 6] = [".service", ".slice", ".scope", ".socket", ".mount", ".swap"];

/// What a glob is over.
#[derive(Clone, Copy)]
pub(super) struct Subject {
    /// The noun for what it can match.
    noun: &'static str,
    /// Whether `*` stops at a slash.
    paths: bool,
    /// How to mend a glob that can match nothing.
    mend: fn(&str) -> Option<String>,
}

/// Names of units.
pub(super) const UNIT: Subject = Subject {
    noun: "systemd-unit",
    paths: true,
    mend: mend_unit,
};
/// Names of slices.
pub(super) const SLICE: Subject = Subject {
    noun: "slice",
    paths: true,
    mend: mend_slice,
};
/// Paths of cgroups.
pub(super) const CGROUP: Subject = Subject {
    noun: "cgroup",
    paths: true,
    mend: mend_cgroup,
};
/// Paths of executables.
pub(super) const EXECUTABLE: Subject = Subject {
    noun: "executable",
    paths: true,
    mend: mend_executable,
};
/// Names of images.
pub(super) const IMAGE: Subject = Subject {
    noun: "image",
    paths: true,
    mend: |_| None,
};
/// Other names, in which a slash means nothing.
pub(super) const NAME: Subject = Subject {
    noun: "name",
    paths: false,
    mend: |_| None,
};

/// The glob that `key` holds.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &str,
    subject: Subject,
) -> Option<Glob> {
    let (text, span) = reader.string(table, key)?;
    parse_text(reader, text, span, subject)
}

/// The globs that `key` holds, one or a list of them.
pub(super) fn parse_list(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &str,
    subject: Subject,
) -> Option<Vec<Glob>> {
    let texts = reader.one_or_more(table, key)?;
    let count = texts.len();
    let globs: Vec<Glob> = texts
        .into_iter()
        .filter_map(|(text, span)| parse_text(reader, text, span, subject))
        .collect();
    (count > 0 && globs.len() == count).then_some(globs)
}

/// One glob.
pub(super) fn parse_text(
    reader: &mut Reader<'_>,
    text: &str,
    span: Range<usize>,
    subject: Subject,
) -> Option<Glob> {
    let glob = GlobBuilder::new(text)
        .literal_separator(subject.paths)
        .build();
    if let Err(error) = &glob {
        reader.error(
            span,
            format!("`{text}` is not a glob: {}", error.kind()),
            "close what is open, or put a backslash before the character to take it as it is"
                .to_owned(),
        );
    } else if let Some(mend) = (subject.mend)(text) {
        reader.error(
            span,
            format!("`{text}` can match no {}", subject.noun),
            mend,
        );
        return None;
    }
    glob.ok()
}

/// Whether the last characters of a glob are not what the name ends with.
fn is_open(text: &str) -> bool {
    text.ends_with(['*', '?', ']', '}'])
}

fn mend_unit(text: &str) -> Option<String> {
    if text.contains('/') {
        return Some("the name of a unit has no `/`; for a path, use `cgroup`".to_owned());
    }
    let typed = UNIT_TYPES.iter().any(|ending| text.ends_with(ending));
    (!is_open(text) && !typed).then(|| format!("say which kind of unit: \"{text}.service\""))
}

fn mend_slice(text: &str) -> Option<String> {
    if text.contains('/') {
        return Some("the name of a slice has no `/`; for a path, use `cgroup`".to_owned());
    }
    if is_open(text) || text.ends_with(".slice") {
        return None;
    }
    Some(if UNIT_TYPES.iter().any(|ending| text.ends_with(ending)) {
        format!("a slice ends in `.slice`; for another unit, use `systemd-unit = \"{text}\"`")
    } else {
        format!("a slice ends in `.slice`: \"{text}.slice\"")
    })
}

fn mend_cgroup(text: &str) -> Option<String> {
    if let Some(path) = text.strip_prefix("/sys/fs/cgroup/") {
        return Some(format!("write it from the cgroup root on: \"/{path}\""));
    }
    if !text.starts_with(['/', '{', '[']) && !text.starts_with("**") {
        return Some(format!("a cgroup path starts with a slash: \"/{text}\""));
    }
    if text.len() > 1 && text.ends_with('/') {
        let path = text.trim_end_matches('/');
        return Some(format!("a cgroup path has no slash at its end: \"{path}\""));
    }
    None
}

fn mend_executable(text: &str) -> Option<String> {
    if text.starts_with('~') {
        return Some("write the home directory out: \"/home/*/bin/agent\"".to_owned());
    }
    if !text.starts_with(['/', '{']) && !text.starts_with("**/") {
        return Some(format!(
            "write the whole path, or `**/` before the name: \"/usr/bin/{0}\", \"**/{0}\"",
            text.rsplit('/').next().unwrap_or(text)
        ));
    }
    if text.ends_with('/') {
        let path = text.trim_end_matches('/');
        return Some(format!(
            "this is a directory; for all that is in it: \"{path}/**\""
        ));
    }
    if text.contains("/../") || text.contains("/./") {
        return Some("write the path without `.` and `..`: the kernel reports it so".to_owned());
    }
    None
}
