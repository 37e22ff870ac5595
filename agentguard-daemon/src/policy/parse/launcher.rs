//! `[[launchers]]`.

use toml::de::DeTable;

use super::{
    account, glob,
    reader::{Keys, Reader},
};
use crate::policy::{Launcher, source::Place};

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &["users", "groups", "identities"],
    later: &[],
    elsewhere: &[],
};

/// A launcher, or nothing where it lacks what it cannot be without.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    place: Place,
) -> Option<Launcher> {
    reader.check_keys(table, "a launcher", &KEYS);
    if !table.contains_key("users") && !table.contains_key("groups") {
        reader.error(
            place.span(),
            "the launcher does not say who may start what it names".to_owned(),
            "add `users = [\"NAME\"]` or `groups = [\"NAME\"]`; root may start everything"
                .to_owned(),
        );
    }
    if !table.contains_key("identities") {
        reader.error(
            place.span(),
            "the launcher does not say what may be started".to_owned(),
            "add `identities = [\"NAME\"]`, or `[\"*\"]` for all".to_owned(),
        );
    }
    let users = account::parse_list(reader, table, "users").unwrap_or_default();
    let groups = account::parse_list(reader, table, "groups").unwrap_or_default();
    Some(Launcher {
        users,
        groups,
        identities: glob::parse_list(reader, table, "identities", glob::NAME)?,
        place,
    })
}
