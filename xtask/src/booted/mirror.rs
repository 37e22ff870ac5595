//! Where this host's apt fetches Debian 12 from.

use std::{ffi::OsStr, fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// The release in the container. The tests are linked with the libraries of the host, so it has to be
/// the host's own.
pub(crate) const SUITE: &str = "bookworm";

const LISTS: &str = "/etc/apt/sources.list.d";

/// The first mirror of the release in the configuration of apt.
pub(crate) fn find() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir(LISTS) {
        let mut lists: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        lists.sort();
        files.extend(lists);
    }
    let mirror = files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension().and_then(OsStr::to_str) {
            Some("list") => in_lines(&text),
            Some("sources") => in_stanzas(&text),
            _ => None,
        }
    });
    mirror.with_context(|| {
        format!(
            "this host is no Debian 12: no source of apt has the suite {SUITE}, which systemd is \
             booted from; run the tests on Debian 12"
        )
    })
}

/// Reads `deb [options] mirror suite components`, a source a line.
fn in_lines(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let mirror = words.next()?;
        (words.next()? == SUITE).then(|| mirror.to_owned())
    })
}

/// Reads paragraphs of `Field: values`, a source a paragraph.
fn in_stanzas(text: &str) -> Option<String> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .find_map(|stanza| {
            let values = |field| stanza.iter().find_map(|line| value(line, field));
            let has = |field, word| {
                values(field).is_some_and(|it| it.split_whitespace().any(|it| it == word))
            };
            if !has("Types", "deb") || !has("Suites", SUITE) || has("Enabled", "no") {
                return None;
            }
            Some(values("URIs")?.split_whitespace().next()?.to_owned())
        })
}

fn value<'a>(line: &'a str, field: &str) -> Option<&'a str> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case(field).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::{in_lines, in_stanzas};

    #[test]
    fn a_mirror_is_found_in_lines() {
        let list = "# deb http://old.example/debian bookworm main\n\
                    deb-src http://src.example/debian bookworm main\n\
                    deb http://next.example/debian trixie main\n\
                    deb http://fixes.example/debian bookworm-security main\n\
                    deb [arch=amd64 signed-by=/a.gpg] http://mirror.example/debian bookworm main\n";
        assert_eq!(
            in_lines(list).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(in_lines("deb http://a.example/debian trixie main\n"), None);
    }

    #[test]
    fn a_mirror_is_found_in_stanzas() {
        let sources = "Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\nEnabled: no\n\n\
                       Types: deb-src\nURIs: http://src.example/debian\nSuites: bookworm\n\n\
                       Types: deb\nURIs: http://fixes.example/debian\nSuites: bookworm-security\n\n\
                       Types: deb deb-src\n# URIs: http://old.example/debian\n\
                       URIs: http://mirror.example/debian http://b.example\n\
                       Suites: bookworm bookworm-updates\n";
        assert_eq!(
            in_stanzas(sources).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(in_stanzas("Types: deb\nSuites: bookworm\n"), None);
    }
}
