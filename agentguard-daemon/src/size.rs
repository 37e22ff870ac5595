//! Sizes as people write them in settings.
#![forbid(unsafe_code)]

use serde::{Deserialize, Deserializer, de::Error as _};

/// Bytes, written as `512MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 5] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("B", 1),
];

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        UNITS
            .iter()
            .find_map(|(unit, size)| {
                let number = text.strip_suffix(unit)?.trim_end();
                number.parse::<u64>().ok()?.checked_mul(*size)
            })
            .filter(|bytes| *bytes > 0)
            .map(Self)
            .ok_or_else(|| {
                D::Error::custom(format!(
                    "`{text}` is not a size, expected a number and KiB, MiB, GiB or TiB, as in `2GiB`"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let read = |text: &str| {
            Size::deserialize(
                serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text),
            )
        };
        for (text, bytes) in [("1B", 1), ("5KiB", 5_120), ("2 GiB", 2 << 30)] {
            assert_eq!(read(text), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "5", "5kb", "-1B", "0MiB", "1.5GiB", "99999999999999TiB"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
