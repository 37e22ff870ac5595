//! `[defaults]`.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::{
    choice::parse_choice,
    reader::{Keys, Reader},
};
use crate::policy::{Defaults, Effect, source::Place};

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &["unknown", "agents-slice", "unknown-agent"],
    later: &[("limits", "remove it; so far rules only allow or deny")],
};

const EFFECTS: [(&str, Effect); 2] = [("allow", Effect::Allow), ("deny", Effect::Deny)];

/// Sets in `defaults` what this file says of them.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    defaults: &mut Defaults,
    seen: &mut BTreeMap<&'static str, Place>,
) {
    reader.check_keys(table, "`[defaults]`", &KEYS);
    for key in KEYS.known {
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
