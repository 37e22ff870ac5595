//! Marks and code points: `mark`, `dscp`, `[classes.NAME]` and `[tags]`.

use toml::de::DeTable;

use super::{
    reader::{Keys, Reader, quoted},
    value,
};
use crate::policy::{MarkMask, Tagging, spelling::nearest};

pub(in crate::policy) const CLASS_KEYS: Keys = Keys {
    known: &["mark", "dscp"],
    later: &[],
    elsewhere: &[("limits", "put them into `[defaults.limits.CLASS]`")],
};

pub(in crate::policy) const TAGS_KEYS: Keys = Keys {
    known: &["mark-mask"],
    later: &[],
    elsewhere: &[],
};

/// Code points that have names (RFC 2474, 2597, 3246, 5865, 8622).
const CODE_POINTS: [(&str, u8); 23] = [
    ("cs0", 0),
    ("cs1", 8),
    ("cs2", 16),
    ("cs3", 24),
    ("cs4", 32),
    ("cs5", 40),
    ("cs6", 48),
    ("cs7", 56),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("ef", 46),
    ("va", 44),
    ("le", 1),
];

/// `mark` and `dscp` of an identity or class.
pub(super) fn parse(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Tagging {
    let mark = parse_bits(reader, table, "mark");
    let place = value(table, "mark").map(|found| reader.place(found.span()));
    Tagging {
        mark: mark.zip(place),
        dscp: parse_dscp(reader, table),
    }
}

/// What `[tags]` says of the mask.
pub(super) fn parse_mask(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<MarkMask> {
    reader.check_keys(table, "`[tags]`", &TAGS_KEYS);
    let bits = parse_bits(reader, table, "mark-mask")?;
    let found = value(table, "mark-mask")?;
    if bits == 0 {
        reader.error(
            found.span(),
            "`mark-mask` leaves no bit for marks".to_owned(),
            "write the bits that are agentguard's: `mark-mask = 0xff000000`".to_owned(),
        );
        return None;
    }
    Some(MarkMask {
        bits,
        place: Some(reader.place(found.span())),
    })
}

fn parse_bits(reader: &mut Reader<'_>, table: &DeTable<'_>, key: &str) -> Option<u32> {
    let found = value(table, key)?;
    let Some(written) = found.get_ref().as_integer() else {
        let mend = format!("write it without quotes: `{key} = 0x01000000`");
        reader.wrong_type(found, key, "a number", &mend);
        return None;
    };
    let bits = u32::from_str_radix(written.as_str(), written.radix());
    if bits.is_err() {
        reader.error(
            found.span(),
            format!("`{key}` has 32 bits"),
            "write a number from 0 to 0xffffffff".to_owned(),
        );
    }
    bits.ok()
}

fn parse_dscp(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<u8> {
    let found = value(table, "dscp")?;
    if let Some(written) = found.get_ref().as_integer() {
        let number = u8::from_str_radix(written.as_str(), written.radix())
            .ok()
            .filter(|&number| number < 64);
        if number.is_none() {
            reader.error(
                found.span(),
                format!("`{}` is not a code point", written.as_str()),
                "write a number from 0 to 63; the traffic class shifted right by two".to_owned(),
            );
        }
        return number;
    }
    let Some(text) = found.get_ref().as_str() else {
        let mend = "write `dscp = \"cs1\"` or a number from 0 to 63";
        reader.wrong_type(found, "dscp", "a name or a number", mend);
        return None;
    };
    let chosen = CODE_POINTS.iter().find(|(name, _)| *name == text);
    if chosen.is_none() {
        let names = CODE_POINTS.map(|(name, _)| name);
        let mend = if text.parse::<u8>().is_ok_and(|number| number < 64) {
            format!("write the number without quotes: `dscp = {text}`")
        } else {
            match nearest(text, names) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!(
                    "`dscp` is a number from 0 to 63 or one of {}",
                    quoted(&names)
                ),
            }
        };
        reader.error(
            found.span(),
            format!("`{text}` is not a value of `dscp`"),
            mend,
        );
    }
    chosen.map(|&(_, number)| number)
}
