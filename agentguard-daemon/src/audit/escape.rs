//! Untrusted bytes to text that is one line of valid UTF-8 and that a terminal can print.
//!
//! The scheme, which loses nothing:
//!
//! | input | output |
//! |---|---|
//! | `\` | `\\` |
//! | a C0 control, DEL, or a byte that is not valid UTF-8 | `\xNN`, the byte in hex |
//! | a C1 control, a bidirectional or other invisible format character | `\u{NNNN}`, the character |
//! | anything else | itself |
//! | what is beyond the limit | `\+N` at the end: N more bytes of input followed |

use std::fmt::Write;

/// Most bytes of an [`Untrusted`] that are kept.
pub const KEPT_BYTES: usize = 384;

/// Bytes that a process chose: its name, the path of its executable, of its cgroup.
///
/// They stay raw until they are encoded. Only a prefix is kept, so that held records stay small
/// whatever a process calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted {
    kept: Box<[u8]>,
    cut: usize,
}

impl Untrusted {
    /// Keeps the first [`KEPT_BYTES`] of `bytes`, and how many there were.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let kept = bytes.get(..KEPT_BYTES).unwrap_or(bytes);
        Self {
            kept: kept.into(),
            cut: bytes.len() - kept.len(),
        }
    }

    /// As text of at most about `limit` bytes.
    #[must_use]
    pub fn escape(&self, limit: usize) -> Escaped {
        escape_cut(&self.kept, self.cut, limit)
    }

    /// The last component of the path that the bytes are, if they are all here.
    #[must_use]
    pub fn file_name(&self) -> Self {
        let start = self.kept.iter().rposition(|&byte| byte == b'/');
        Self {
            kept: self.kept[start.map_or(0, |slash| slash + 1)..].into(),
            cut: self.cut,
        }
    }
}

/// Text that is safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escaped {
    /// The text.
    pub text: String,
    /// Whether it ends in the `\+N` mark.
    pub is_cut: bool,
}

/// Escapes `bytes` to at most `limit` bytes of text, and the `\+N` mark if that cuts them.
#[must_use]
pub fn escape(bytes: &[u8], limit: usize) -> Escaped {
    escape_cut(bytes, 0, limit)
}

/// Escapes `bytes`, after which `missing` more bytes followed.
fn escape_cut(bytes: &[u8], missing: usize, limit: usize) -> Escaped {
    let mut text = String::new();
    let mut taken = 0;
    'input: for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let before = text.len();
            push_escaped(&mut text, character);
            if text.len() > limit {
                text.truncate(before);
                break 'input;
            }
            taken += character.len_utf8();
        }
        for byte in chunk.invalid() {
            if text.len() + 4 > limit {
                break 'input;
            }
            push_byte(&mut text, *byte);
            taken += 1;
        }
    }
    let cut = bytes.len() - taken + missing;
    if cut > 0 {
        // Writing to a `String` cannot fail.
        write!(text, "\\+{cut}").ok();
    }
    Escaped {
        text,
        is_cut: cut > 0,
    }
}

fn push_escaped(text: &mut String, character: char) {
    match character {
        '\\' => text.push_str("\\\\"),
        '\0'..='\x1f' | '\x7f' => {
            let mut byte = [0];
            character.encode_utf8(&mut byte);
            push_byte(text, byte[0]);
        }
        _ if is_deceptive(character) => {
            write!(text, "\\u{{{:x}}}", u32::from(character)).ok();
        }
        _ => text.push(character),
    }
}

fn push_byte(text: &mut String, byte: u8) {
    write!(text, "\\x{byte:02x}").ok();
}

/// Characters that a terminal obeys or hides instead of showing.
const fn is_deceptive(character: char) -> bool {
    matches!(
        character,
        '\u{80}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The inverse of [`escape`] for text that was not cut.
    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let after = &rest[character.len_utf8()..];
            if character != '\\' {
                bytes.extend_from_slice(&rest.as_bytes()[..character.len_utf8()]);
                rest = after;
            } else if let Some(after) = after.strip_prefix('\\') {
                bytes.push(b'\\');
                rest = after;
            } else if let Some(hex) = after.strip_prefix('x') {
                bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
                rest = &hex[2..];
            } else {
                let (code, after) = after[2..].split_once('}').unwrap();
                let character = char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap();
                bytes.extend_from_slice(character.to_string().as_bytes());
                rest = after;
            }
        }
        bytes
    }

    #[test]
    fn hostile_bytes_become_visible() {
        for (input, output) in [
            (&b"curl"[..], "curl"),
            (b"a\nb\0c\x1b[31m\x7f", r"a\x0ab\x00c\x1b[31m\x7f"),
            (b"back\\slash \\x41", r"back\\slash \\x41"),
            (b"\xff\xc3(", r"\xff\xc3("),
            ("caf\u{e9} \u{65e5}".as_bytes(), "caf\u{e9} \u{65e5}"),
            ("\u{202e}txt\u{2066}".as_bytes(), r"\u{202e}txt\u{2066}"),
            ("\u{9b}31m\u{2028}".as_bytes(), r"\u{9b}31m\u{2028}"),
        ] {
            assert_eq!(escape(input, 100).text, output);
        }
    }

    #[test]
    fn long_input_is_cut_and_says_so() {
        assert_eq!(escape(&[b'a'; 4096], 10).text, r"aaaaaaaaaa\+4086");
        assert_eq!(Untrusted::new(&[b'a'; 4096]).escape(5).text, r"aaaaa\+4091");
        assert_eq!(escape(b"abc\x1b", 6).text, r"abc\+1");
        assert!(!escape(b"abc", 3).is_cut);
    }

    #[test]
    fn a_file_name_is_the_last_component() {
        let name = Untrusted::new(b"/usr/bin/x y").file_name();
        assert_eq!(name.escape(100).text, "x y");
    }

    proptest! {
        #[test]
        fn escaping_is_lossless_and_printable(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                any::<String>().prop_map(String::into_bytes),
            ]
        ) {
            let escaped = escape(&bytes, usize::MAX).text;
            prop_assert!(!escaped.chars().any(|c| c.is_control() || is_deceptive(c)));
            prop_assert_eq!(unescape(&escaped), bytes);
        }

        #[test]
        fn the_limit_holds(bytes in prop::collection::vec(any::<u8>(), 0..600), limit in 0_usize..64) {
            let escaped = Untrusted::new(&bytes).escape(limit);
            prop_assert!(escaped.text.len() <= limit + r"\+600".len());
        }
    }
}
