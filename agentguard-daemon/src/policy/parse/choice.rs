//! Values that are one of some words.

use toml::de::DeTable;

use super::reader::{Reader, quoted};
use crate::policy::spelling::nearest;

/// The value that one of some words stands for.
pub(super) fn parse_choice<T: Copy>(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &str,
    choices: &[(&str, T)],
) -> Option<T> {
    let (text, span) = reader.string(table, key)?;
    let chosen = choices.iter().find(|(word, _)| *word == text);
    if chosen.is_none() {
        let words: Vec<&str> = choices.iter().map(|&(word, _)| word).collect();
        let help = match nearest(text, words.iter().copied()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => format!("`{key}` is one of {}", quoted(&words)),
        };
        reader.error(span, format!("`{text}` is not a value of `{key}`"), help);
    }
    chosen.map(|&(_, value)| value)
}
