//! What ties records together: each line has its number and the hash of the line before it.
//!
//! A line's hash is SHA-256 over its bytes, without the newline, exactly as sinks get them. So whoever
//! has the lines, from whichever sink, can tell without us whether one was altered, left out, moved
//! or repeated.

use sha2::{Digest as _, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// What stands in the first line of all in place of a hash.
pub const NOTHING: Hash = [0; 32];

/// Where the next line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its number, from 1.
    pub sequence: u64,
    /// The hash of the line before it.
    pub previous: Hash,
}

impl Position {
    /// Of the first line of all.
    pub const FIRST: Self = Self {
        sequence: 1,
        previous: NOTHING,
    };

    /// Where the line after `line` goes, which went here.
    #[must_use]
    pub fn after(self, line: &str) -> Self {
        Self {
            sequence: self.sequence + 1,
            previous: hash(line),
        }
    }
}

/// The hash of `line`.
#[must_use]
pub fn hash(line: &str) -> Hash {
    Sha256::digest(line.as_bytes()).into()
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// The inverse of [`to_hex`], for exactly `N` bytes.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_knows_the_one_before_it() {
        let second = Position::FIRST.after("abc");
        assert_eq!(second.sequence, 2);
        // FIPS 180-4, example B.1.
        let wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(to_hex(&second.previous), wanted);
        assert_eq!(from_hex(wanted), Some(second.previous));
        for text in [
            "",
            "ba",
            &wanted.replace('b', "g"),
            &wanted.replacen("ba", "+a", 1),
        ] {
            assert_eq!(from_hex::<32>(text), None, "{text}");
        }
    }
}
