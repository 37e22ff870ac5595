//! Quantities with units: `20/s`, `10Mbit/s`, `5GiB/day`.

use crate::policy::{
    limit::{Quota, QuotaPeriod, Rate, RatePeriod},
    spelling::nearest,
};

/// What is wrong, and its mend.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub(super) String, pub(super) String);

const MAX_RATE: u64 = 10_000_000;
const MIN_BITS: u64 = 8_000;
const MAX_BITS: u64 = 1_000_000_000_000;
const MAX_BYTES: u64 = 1 << 60;

const RATE_PERIODS: [RatePeriod; 3] = [RatePeriod::Second, RatePeriod::Minute, RatePeriod::Hour];
const QUOTA_PERIODS: [QuotaPeriod; 3] = [QuotaPeriod::Hour, QuotaPeriod::Day, QuotaPeriod::Month];

const BIT_UNITS: [(&str, u64); 4] = [
    ("bit", 1),
    ("kbit", 1_000),
    ("Mbit", 1_000_000),
    ("Gbit", 1_000_000_000),
];
const BYTE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// `20/s`, with the burst that one second gives.
pub(super) fn rate(text: &str) -> Result<Rate, Wrong> {
    const EXAMPLE: &str = "write how many in which time: \"20/s\", \"100/min\" or \"1000/hour\"";
    let wrong = |help: String| Wrong(format!("`{text}` is not a rate"), help);
    let (count, period) = split(text).ok_or_else(|| wrong(EXAMPLE.to_owned()))?;
    let number = count
        .parse::<u64>()
        .ok()
        .filter(|_| is_plain(count))
        .ok_or_else(|| wrong(EXAMPLE.to_owned()))?;
    let period = find(&RATE_PERIODS, |it| it.name(), period)
        .map_err(|words| wrong(period_help(count, period, &words)))?;
    match number {
        0 => Err(Wrong(
            format!("`{text}` lets nothing pass"),
            "to refuse all, leave the rule out, or write a rule with `deny = true`".to_owned(),
        )),
        1..=MAX_RATE => Ok(Rate {
            count: number,
            period,
            burst: (number * 1_000_000_000 / period.nanoseconds()).max(1),
        }),
        _ => Err(Wrong(
            format!("`{text}` is out of range"),
            format!("write a rate of up to {MAX_RATE}/{}", period.name()),
        )),
    }
}

/// `10Mbit/s` or `1MiB/s`, in bits per second.
pub(super) fn bandwidth(text: &str) -> Result<u64, Wrong> {
    const EXAMPLE: &str = "write it as \"10Mbit/s\" or \"1MiB/s\"";
    let wrong = |help: String| Wrong(format!("`{text}` is not a bandwidth"), help);
    let (amount, period) = split(text).ok_or_else(|| wrong(EXAMPLE.to_owned()))?;
    if period != "s" {
        return Err(wrong(format!("a bandwidth is per second: \"{amount}/s\"")));
    }
    let (number, unit) = cut(amount).ok_or_else(|| wrong(EXAMPLE.to_owned()))?;
    let of_bits = BIT_UNITS.iter().map(|&(name, size)| (name, size));
    let of_bytes = BYTE_UNITS.iter().map(|&(name, size)| (name, size * 8));
    let units: Vec<(&str, u64)> = of_bits.chain(of_bytes).collect();
    let size = size_of(&units, unit).map_err(|help| wrong(unit_help(number, unit, "/s", help)))?;
    let bits = times(number, size)
        .ok_or_else(|| wrong("write a number of whole bits, such as \"10Mbit/s\"".to_owned()))?;
    if (MIN_BITS..=MAX_BITS).contains(&bits) {
        Ok(bits)
    } else {
        Err(Wrong(
            format!("`{text}` is out of range"),
            "a bandwidth is from 8kbit/s to 1000Gbit/s".to_owned(),
        ))
    }
}

/// `5GiB/day`.
pub(super) fn quota(text: &str) -> Result<Quota, Wrong> {
    const EXAMPLE: &str = "write how much in which period: \"5GiB/day\"";
    let wrong = |help: String| Wrong(format!("`{text}` is not a quota"), help);
    let (amount, period) = split(text).ok_or_else(|| wrong(EXAMPLE.to_owned()))?;
    let (number, unit) = cut(amount).ok_or_else(|| wrong(EXAMPLE.to_owned()))?;
    let end = format!("/{period}");
    let size =
        size_of(&BYTE_UNITS, unit).map_err(|help| wrong(unit_help(number, unit, &end, help)))?;
    let period = find(&QUOTA_PERIODS, |it| it.name(), period)
        .map_err(|words| wrong(period_help(amount, period, &words)))?;
    let bytes = times(number, size)
        .ok_or_else(|| wrong("write a number of whole bytes, such as \"5GiB/day\"".to_owned()))?;
    match bytes {
        0 => Err(Wrong(
            format!("`{text}` lets nothing pass"),
            "to refuse all, leave the rule out, or write a rule with `deny = true`".to_owned(),
        )),
        1..=MAX_BYTES => Ok(Quota { bytes, period }),
        _ => Err(Wrong(
            format!("`{text}` is out of range"),
            "a quota is up to 1048576TiB".to_owned(),
        )),
    }
}

/// What stands before and after the slash, both without spaces at the ends.
fn split(text: &str) -> Option<(&str, &str)> {
    let (amount, period) = text.split_once('/')?;
    Some((amount.trim(), period.trim()))
}

/// A number and its unit.
fn cut(amount: &str) -> Option<(&str, &str)> {
    let end = amount.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = amount.split_at(end);
    (!number.is_empty()).then_some((number, unit.trim()))
}

/// Digits alone, and no leading zero.
fn is_plain(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit()) && (number == "0" || !number.starts_with('0'))
}

/// `number`, which may have a fraction, times `size`; nothing where that is not whole or too large.
fn times(number: &str, size: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = is_plain(whole)
        && !fraction.is_empty()
        && fraction.len() <= 9
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = whole.parse::<u128>().ok()?.checked_mul(scale)? + fraction.parse::<u128>().ok()?;
    let product = parts.checked_mul(size.into())?;
    if !product.is_multiple_of(scale) {
        return None;
    }
    // What is too large is out of range, whatever it is.
    Some(u64::try_from(product / scale).unwrap_or(u64::MAX))
}

fn size_of<'u>(units: &[(&'u str, u64)], unit: &str) -> Result<u64, Option<&'u str>> {
    if let Some(&(_, size)) = units.iter().find(|(name, _)| *name == unit) {
        return Ok(size);
    }
    // Case is what people get wrong; else it is spelling.
    let folded = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit));
    Err(match folded {
        Some((name, _)) => Some(name),
        None => nearest(unit, units.iter().map(|&(name, _)| name)),
    })
}

fn unit_help(number: &str, unit: &str, end: &str, meant: Option<&str>) -> String {
    match meant {
        Some(meant) => format!("write the unit as `{meant}`: \"{number}{meant}{end}\""),
        None if unit.is_empty() => "say which unit: MB, MiB, Mbit and so on".to_owned(),
        None => format!("`{unit}` is not a unit; there are kB, MB, GB and KiB, MiB, GiB"),
    }
}

fn find<'w, T: Copy>(
    all: &[T],
    name: impl Fn(T) -> &'w str,
    word: &str,
) -> Result<T, Vec<&'w str>> {
    let found = all.iter().copied().find(|&it| name(it) == word);
    found.ok_or_else(|| all.iter().map(|&it| name(it)).collect())
}

fn period_help(amount: &str, period: &str, words: &[&str]) -> String {
    let of_letter = |word: &&&str| {
        period
            .chars()
            .next()
            .is_some_and(|first| word.starts_with(first.to_ascii_lowercase()))
    };
    // `min` and `month` begin alike, but never stand together.
    match words.iter().find(of_letter) {
        Some(word) => format!("write \"{amount}/{word}\""),
        None => format!(
            "the times are {}: \"{amount}/{}\"",
            words.join(", "),
            words[0]
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let of = |text| rate(text).map(|it| (it.count, it.period, it.burst));
        assert_eq!(of("20/s"), Ok((20, RatePeriod::Second, 20)));
        assert_eq!(of("90/min"), Ok((90, RatePeriod::Minute, 1)));
        assert_eq!(of("600/min"), Ok((600, RatePeriod::Minute, 10)));
        assert_eq!(of("1 / hour"), Ok((1, RatePeriod::Hour, 1)));
        assert_eq!(
            of("10000000/s"),
            Ok((MAX_RATE, RatePeriod::Second, MAX_RATE))
        );
        for (text, mend) in [
            ("20", "write how many in which time"),
            ("/s", "write how many in which time"),
            ("-1/s", "write how many in which time"),
            ("020/s", "write how many in which time"),
            ("1.5/s", "write how many in which time"),
            ("20/sec", "write \"20/s\""),
            ("20/m", "write \"20/min\""),
            ("20/h", "write \"20/hour\""),
            ("20/day", "the times are s, min, hour"),
            ("0/s", "to refuse all"),
            ("10000001/s", "up to 10000000/s"),
            ("99999999999999999999/s", "write how many in which time"),
        ] {
            let Wrong(_, help) = rate(text).unwrap_err();
            assert!(
                help.starts_with(mend) || help.contains(mend),
                "{text}: {help}"
            );
        }
    }

    #[test]
    fn bandwidths() {
        assert_eq!(bandwidth("10Mbit/s"), Ok(10_000_000));
        assert_eq!(bandwidth("1.5Mbit/s"), Ok(1_500_000));
        assert_eq!(bandwidth("1MiB/s"), Ok(8 << 20));
        assert_eq!(bandwidth("1kB/s"), Ok(8_000));
        assert_eq!(bandwidth("1000Gbit/s"), Ok(MAX_BITS));
        for (text, mend) in [
            ("10", "write it as \"10Mbit/s\""),
            ("10Mbit", "write it as \"10Mbit/s\""),
            ("Mbit/s", "write it as \"10Mbit/s\""),
            ("10mbit/s", "write the unit as `Mbit`: \"10Mbit/s\""),
            ("10MBit/s", "write the unit as `Mbit`: \"10Mbit/s\""),
            ("10kib/s", "write the unit as `KiB`: \"10KiB/s\""),
            ("10/s", "write it as \"10Mbit/s\""),
            ("10Mbit/min", "a bandwidth is per second"),
            ("0.1bit/s", "whole bits"),
            ("1.Mbit/s", "whole bits"),
            ("0Mbit/s", "from 8kbit/s"),
            ("7999bit/s", "from 8kbit/s"),
            ("1001Gbit/s", "to 1000Gbit/s"),
            ("99999999999999999999999TB/s", "to 1000Gbit/s"),
        ] {
            let Wrong(_, help) = bandwidth(text).unwrap_err();
            assert!(help.contains(mend), "{text}: {help}");
        }
    }

    #[test]
    fn quotas() {
        let of = |text| quota(text).map(|it| (it.bytes, it.period));
        assert_eq!(of("5GiB/day"), Ok((5 << 30, QuotaPeriod::Day)));
        assert_eq!(of("1.5kB/hour"), Ok((1_500, QuotaPeriod::Hour)));
        assert_eq!(
            of("2 TB / month"),
            Ok((2_000_000_000_000, QuotaPeriod::Month))
        );
        assert_eq!(of("1048576TiB/month"), Ok((MAX_BYTES, QuotaPeriod::Month)));
        for (text, mend) in [
            ("5GiB", "write how much in which period"),
            ("5/day", "write how much in which period"),
            ("5Gib/day", "write the unit as `GiB`: \"5GiB/day\""),
            ("5Mbit/day", "`Mbit` is not a unit"),
            ("5GiB/d", "write \"5GiB/day\""),
            ("5GiB/week", "the times are hour, day, month"),
            ("0GiB/day", "to refuse all"),
            ("0.3B/day", "whole bytes"),
            ("1048577TiB/day", "up to 1048576TiB"),
        ] {
            let Wrong(_, help) = quota(text).unwrap_err();
            assert!(help.contains(mend), "{text}: {help}");
        }
    }
}
