//! Times as people write them.

use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

/// A moment: `2h` ago, or `2026-01-31T12:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since(Timestamp);

impl Since {
    /// Unix time in milliseconds.
    pub(super) fn as_millisecond(self) -> i64 {
        self.0.as_millisecond()
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self(time));
        }
        ago(text)
            .and_then(|ago| Timestamp::now().checked_sub(ago).ok())
            .map(Self)
            .ok_or_else(|| {
                "write how long ago, as 90s, 15m, 2h, 7d, or a time, as 2026-01-31T12:00:00Z"
                    .to_owned()
            })
    }
}

fn ago(text: &str) -> Option<SignedDuration> {
    let unit = text.chars().last()?;
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    let total = number.checked_mul(seconds).filter(|total| *total >= 0)?;
    Some(SignedDuration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ago_or_absolute() {
        assert_eq!(ago("90s"), Some(SignedDuration::from_secs(90)));
        assert_eq!(ago("2h"), Some(SignedDuration::from_secs(7_200)));
        assert_eq!(ago("1w"), Some(SignedDuration::from_secs(604_800)));
        for text in ["", "h", "2", "2y", "-2h", "2.5h", "9999999999999999d"] {
            assert_eq!(ago(text), None, "{text}");
        }
        let time = "2026-01-31T12:00:00Z";
        assert_eq!(time.parse(), Ok(Since(time.parse().unwrap())));
    }
}
