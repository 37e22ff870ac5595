//! `[zones.NAME]`.

use toml::de::DeTable;

use super::{
    address,
    reader::{Keys, Reader},
};
use crate::policy::{Zone, source::Place};

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &["addresses"],
    later: &[("names", "write the addresses that they have in `addresses`")],
    elsewhere: &[],
};

/// A zone, without the addresses that were refused.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    name: &str,
    table: &DeTable<'_>,
    place: Place,
) -> Zone {
    reader.check_keys(table, "a zone", &KEYS);
    if !table.contains_key("addresses") && !table.contains_key("names") {
        reader.error(
            place.span(),
            format!("zone `{name}` has no addresses"),
            "add `addresses = [\"192.0.2.0/24\"]`".to_owned(),
        );
    }
    let addresses = address::parse_list(reader, table).unwrap_or_default();
    Zone { place, addresses }
}
