//! `[defaults]`.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::{
    choice::parse_choice,
    identity::CLASSES,
    limit::{self, Of},
    reader::{Keys, Reader, quoted},
    value,
};
use crate::policy::{Defaults, Effect, limit::QuotaTime, source::Place, spelling::nearest};

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &[
        "unknown",
        "agents-slice",
        "unknown-agent",
        "quota-time",
        "limits",
    ],
    later: &[],
    elsewhere: &[],
};

const QUOTA_TIMES: [(&str, QuotaTime); 2] = [("utc", QuotaTime::Utc), ("local", QuotaTime::Local)];

const EFFECTS: [(&str, Effect); 2] = [("allow", Effect::Allow), ("deny", Effect::Deny)];

/// Sets in `defaults` what this file says of them.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    defaults: &mut Defaults,
    seen: &mut BTreeMap<&'static str, Place>,
    limits_seen: &mut BTreeMap<String, Place>,
) {
    reader.check_keys(table, "`[defaults]`", &KEYS);
    // Each file may have those of other classes.
    for key in KEYS.known.iter().filter(|key| **key != "limits") {
        let Some((written, _)) = table.get_key_value(*key) else {
            continue;
        };
        let place = reader.place(written.span());
        if reader.check_duplicate("default", key, &place, seen.get(key)) {
            seen.insert(key, place);
        }
    }
    if let Some(effect) = parse_choice(reader, table, "unknown", &EFFECTS) {
        defaults.unknown = effect;
    }
    if let Some(effect) = parse_choice(reader, table, "unknown-agent", &EFFECTS) {
        defaults.unknown_agent = effect;
    }
    if let Some(time) = parse_choice(reader, table, "quota-time", &QUOTA_TIMES) {
        defaults.quota_time = time;
    }
    parse_limits(reader, table, defaults, limits_seen);
    if let Some((slice, span)) = reader.string(table, "agents-slice") {
        if slice.ends_with(".slice") && !slice.contains(['/', '*', '\0']) {
            slice.clone_into(&mut defaults.agents_slice);
        } else {
            let name = slice.trim_matches('/').rsplit('/').next().unwrap_or(slice);
            let name = name.trim_end_matches(".slice").replace('*', "");
            reader.error(
                span,
                format!("`{slice}` is not the name of a slice"),
                format!("write the name of the systemd slice alone: \"{name}.slice\""),
            );
        }
    }
}

/// `[defaults.limits.CLASS]`.
fn parse_limits(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    defaults: &mut Defaults,
    seen: &mut BTreeMap<String, Place>,
) {
    let words = CLASSES.map(|(word, _)| word);
    let Some(found) = value(table, "limits") else {
        return;
    };
    let mend = "write `[defaults.limits.CLASS]` and the limits of the class below it";
    let Some(classes) = found.get_ref().as_table() else {
        reader.wrong_type(found, "limits", "a table of tables", mend);
        return;
    };
    for (key, found) in classes {
        let (name, place) = (key.get_ref().as_ref(), reader.place(key.span()));
        if !words.contains(&name) {
            let help = match nearest(name, words) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("{mend}; the classes are {}", quoted(&words)),
            };
            reader.error(key.span(), format!("there is no class `{name}`"), help);
            continue;
        }
        let Some(table) = found.get_ref().as_table() else {
            reader.wrong_type(found, name, "a table", mend);
            continue;
        };
        if !reader.check_duplicate("limit of class", name, &place, seen.get(name)) {
            continue;
        }
        seen.insert(name.to_owned(), place.clone());
        if let Some(limits) = limit::parse_table(reader, table, Of::Identity, place) {
            defaults.limits.insert(name.to_owned(), limits);
        }
    }
}
