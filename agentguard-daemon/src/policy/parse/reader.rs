//! Typed access to one TOML document: what has the wrong shape becomes a diagnostic with its place.

use std::{ops::Range, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::value;
use crate::policy::{
    compiled::BUILT_IN,
    diagnostic::{Diagnostic, Diagnostics},
    source::{Place, Source},
    spelling::nearest,
    zone::is_built_in,
};

/// The keys that a table may have.
pub(in crate::policy) struct Keys {
    /// Those that mean something.
    pub(in crate::policy) known: &'static [&'static str],
    /// Those that will, and what to write until then.
    pub(in crate::policy) later: &'static [(&'static str, &'static str)],
    /// Those that mean something elsewhere, and where.
    pub(in crate::policy) elsewhere: &'static [(&'static str, &'static str)],
}

/// Reads one file's document.
pub(super) struct Reader<'a> {
    source: &'a Arc<Source>,
    diagnostics: &'a mut Diagnostics,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Arc<Source>, diagnostics: &'a mut Diagnostics) -> Self {
        Self {
            source,
            diagnostics,
        }
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.source, span)
    }

    pub(super) fn error(&mut self, span: Range<usize>, message: String, help: String) {
        let place = self.place(span);
        self.push(Diagnostic::error(message).at(place).help(help));
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Refuses the keys of `table` that mean nothing in `owner`, or nothing yet.
    pub(super) fn check_keys(&mut self, table: &DeTable<'_>, owner: &str, keys: &Keys) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if keys.known.contains(&name) {
                continue;
            }
            if let Some((_, instead)) = keys.later.iter().find(|(later, _)| *later == name) {
                let message = format!("`{name}` is not supported in {owner} yet");
                self.error(key.span(), message, (*instead).to_owned());
                continue;
            }
            if let Some((_, place)) = keys.elsewhere.iter().find(|(other, _)| *other == name) {
                let message = format!("`{name}` does not belong in {owner}");
                self.error(key.span(), message, (*place).to_owned());
                continue;
            }
            let help = match nearest(name, keys.known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the keys of {owner} are {}", quoted(keys.known)),
            };
            self.error(key.span(), format!("unknown key `{name}` in {owner}"), help);
        }
    }

    /// The tables `[key.NAME]`, those with a bad name left out and reported.
    pub(super) fn named_tables<'t, 'i>(
        &mut self,
        document: &'t DeTable<'i>,
        key: &str,
        noun: &str,
    ) -> Vec<(&'t str, &'t DeTable<'i>, Place)> {
        let Some(tables) = value(document, key) else {
            return Vec::new();
        };
        let Some(tables) = tables.get_ref().as_table() else {
            self.wrong_type(
                tables,
                key,
                "a table of tables",
                &format!("write `[{key}.NAME]`"),
            );
            return Vec::new();
        };
        let mut named = Vec::new();
        for (name, content) in tables {
            let place = self.place(name.span());
            let name = name.get_ref().as_ref();
            if !self.check_name(noun, key, name, &place) {
                continue;
            }
            match content.get_ref().as_table() {
                Some(table) => named.push((name, table, place)),
                None => self.wrong_type(
                    content,
                    name,
                    "a table",
                    &format!("write `[{key}.{name}]` and its keys below it"),
                ),
            }
        }
        named
    }

    /// Reports a name that another file defined first. Returns whether it is new.
    pub(super) fn check_duplicate(
        &mut self,
        noun: &str,
        name: &str,
        place: &Place,
        first: Option<&Place>,
    ) -> bool {
        let Some(first) = first else {
            return true;
        };
        self.push(
            Diagnostic::error(format!("{noun} `{name}` is defined twice"))
                .at(place.clone())
                .related("it is defined first here", first.clone())
                .help(
                    "rename or remove one of them; to replace a file of a lower directory, give \
                     this one the same file name",
                ),
        );
        false
    }

    fn check_name(&mut self, noun: &str, key: &str, name: &str, place: &Place) -> bool {
        let span = place.span();
        if noun == "zone" && is_built_in(name) {
            self.error(
                span,
                format!("zone `{name}` is built in"),
                format!("give yours another name, such as `my-{name}`"),
            );
            return false;
        }
        if noun == "identity" && BUILT_IN.contains(&name) {
            let mend = if name.starts_with("unknown") {
                format!("give yours another name, or set `{name}` in `[defaults]`")
            } else {
                format!("give yours another name, such as `my-{name}`")
            };
            self.error(
                span,
                format!("`{name}` is the name of a built-in identity"),
                mend,
            );
            return false;
        }
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let valid = name.len() <= 63
            && name.starts_with(letter)
            && name.chars().all(|c| letter(c) || "._-".contains(c));
        if !valid {
            let mended: String = name
                .to_lowercase()
                .chars()
                .map(|c| {
                    if letter(c) || "._-".contains(c) {
                        c
                    } else {
                        '-'
                    }
                })
                .skip_while(|&c| !letter(c))
                .take(63)
                .collect();
            let mended = if mended.is_empty() {
                "NAME"
            } else {
                mended.trim_end_matches('-')
            };
            self.error(
                span,
                format!("`{name}` is not a name for {}", with_article(noun)),
                format!(
                    "a name has up to 63 of a-z 0-9 . _ - and starts with a letter or digit: \
                     `[{key}.{mended}]`"
                ),
            );
        }
        valid
    }

    pub(super) fn table<'t, 'i>(
        &mut self,
        table: &'t DeTable<'i>,
        key: &str,
    ) -> Option<&'t DeTable<'i>> {
        let found = value(table, key)?;
        let inner = found.get_ref().as_table();
        if inner.is_none() {
            self.wrong_type(found, key, "a table", &format!("write `[{key}]`"));
        }
        inner
    }

    /// The tables of `[[…key]]`.
    pub(super) fn tables<'t, 'i>(
        &mut self,
        table: &'t DeTable<'i>,
        key: &str,
        header: &str,
    ) -> Vec<(&'t DeTable<'i>, Place)> {
        let Some(found) = value(table, key) else {
            return Vec::new();
        };
        let mend = format!("write `[[{header}]]` with two brackets, once for each");
        let Some(array) = found.get_ref().as_array() else {
            self.wrong_type(found, key, "an array of tables", &mend);
            return Vec::new();
        };
        if array.is_empty() {
            self.error(found.span(), format!("`{key}` is empty"), mend.clone());
        }
        let mut tables = Vec::new();
        for element in array.iter() {
            match element.get_ref().as_table() {
                Some(table) => tables.push((table, self.place(element.span()))),
                None => self.wrong_type(element, key, "an array of tables", &mend),
            }
        }
        tables
    }

    pub(super) fn bool(&mut self, table: &DeTable<'_>, key: &str) -> Option<bool> {
        let found = value(table, key)?;
        let inner = found.get_ref().as_bool();
        if inner.is_none() {
            let mend = format!("write `{key} = true` or `{key} = false`");
            self.wrong_type(found, key, "true or false", &mend);
        }
        inner
    }

    pub(super) fn string<'t>(
        &mut self,
        table: &'t DeTable<'_>,
        key: &str,
    ) -> Option<(&'t str, Range<usize>)> {
        let found = value(table, key)?;
        let text = self.text(found, key)?;
        if text.trim().is_empty() {
            self.error(
                found.span(),
                format!("`{key}` is empty"),
                format!("write something between the quotes, or remove `{key}`"),
            );
            return None;
        }
        Some((text, found.span()))
    }

    /// The strings of an array; entries of another type are reported and left out.
    pub(super) fn strings<'t>(
        &mut self,
        table: &'t DeTable<'_>,
        key: &str,
    ) -> Option<Vec<(&'t str, Range<usize>)>> {
        let found = value(table, key)?;
        let Some(array) = found.get_ref().as_array() else {
            let mend = match found.get_ref().as_str() {
                Some(text) => format!("write `{key} = [\"{text}\"]`"),
                None => format!("write `{key} = [\"…\"]`"),
            };
            self.wrong_type(found, key, "an array of strings", &mend);
            return None;
        };
        let mut texts = Vec::new();
        for element in array.iter() {
            if let Some(text) = self.text(element, key) {
                texts.push((text, element.span()));
            }
        }
        if array.is_empty() {
            self.error(
                found.span(),
                format!("`{key}` is empty"),
                "put at least one entry in it".to_owned(),
            );
        }
        Some(texts)
    }

    /// The strings of an array, or a single one; entries of another type are reported and left out.
    pub(super) fn one_or_more<'t>(
        &mut self,
        table: &'t DeTable<'_>,
        key: &str,
    ) -> Option<Vec<(&'t str, Range<usize>)>> {
        if value(table, key)?.get_ref().is_array() {
            self.strings(table, key)
        } else {
            self.string(table, key).map(|found| vec![found])
        }
    }

    fn text<'t>(&mut self, found: &'t Spanned<DeValue<'_>>, key: &str) -> Option<&'t str> {
        let text = found.get_ref().as_str();
        if text.is_none() {
            let written = self.source.text().get(found.span()).unwrap_or_default();
            let mend = if found.get_ref().is_array() || found.get_ref().is_table() {
                "write text in double quotes".to_owned()
            } else if key == "ports" {
                format!("write it with its protocol: \"{written}/tcp\"")
            } else {
                format!("put it in quotes: \"{written}\"")
            };
            self.wrong_type(found, key, "a string", &mend);
        }
        text
    }

    pub(super) fn wrong_type(
        &mut self,
        found: &Spanned<DeValue<'_>>,
        key: &str,
        expected: &str,
        mend: &str,
    ) {
        let kind = with_article(found.get_ref().type_str());
        self.error(
            found.span(),
            format!("`{key}` takes {expected}, not {kind}"),
            mend.to_owned(),
        );
    }
}

/// `a`, `b` and `c`, each in backquotes.
pub(super) fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}
