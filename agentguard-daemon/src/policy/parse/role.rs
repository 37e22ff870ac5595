//! `[roles.NAME]` and its rules.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::{
    address, port,
    reader::{Keys, Reader},
    selector,
};
use crate::policy::{Effect, Role, Rule, source::Place};

const NO_LIMITS: (&str, &str) = ("limits", "remove it; so far rules only allow or deny");

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &["egress", "ingress", "raw-sockets"],
    later: &[NO_LIMITS],
};

pub(in crate::policy) const RULE_KEYS: Keys = Keys {
    known: &["zones", "addresses", "ports", "deny", "requires"],
    later: &[
        NO_LIMITS,
        ("names", "write the addresses that they have in `addresses`"),
    ],
};

/// A role, without what was refused.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    name: &str,
    table: &DeTable<'_>,
    place: Place,
) -> Role {
    reader.check_keys(table, "a role", &KEYS);
    let raw_sockets = reader.bool(table, "raw-sockets").unwrap_or(false);
    let mut rules = |direction: &str| -> Vec<Rule> {
        let header = format!("roles.{name}.{direction}");
        reader
            .tables(table, direction, &header)
            .into_iter()
            .map(|(rule, place)| parse_rule(reader, rule, place))
            .collect()
    };
    Role {
        egress: rules("egress"),
        ingress: rules("ingress"),
        place,
        raw_sockets,
    }
}

fn parse_rule(reader: &mut Reader<'_>, table: &DeTable<'_>, place: Place) -> Rule {
    reader.check_keys(table, "a rule", &RULE_KEYS);
    if !["zones", "addresses", "names"]
        .iter()
        .any(|&key| table.contains_key(key))
    {
        reader.error(
            place.span(),
            "the rule does not say which addresses it is about".to_owned(),
            "add `zones = [\"any\"]` for all of them, or name zones or `addresses`".to_owned(),
        );
    }
    Rule {
        zones: parse_references(reader, table, "zones"),
        addresses: address::parse_list(reader, table).unwrap_or_default(),
        ports: port::parse_list(reader, table),
        effect: if reader.bool(table, "deny") == Some(true) {
            Effect::Deny
        } else {
            Effect::Allow
        },
        requires: selector::parse_requires(reader, table),
        place,
    }
}

/// Names of zones or roles and where they stand, each once.
pub(super) fn parse_references(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &str,
) -> BTreeMap<String, Place> {
    let mut references = BTreeMap::new();
    for (name, span) in reader.strings(table, key).unwrap_or_default() {
        let place = reader.place(span.clone());
        if references.insert(name.to_owned(), place).is_some() {
            reader.error(
                span,
                format!("`{name}` is in `{key}` twice"),
                "remove one of them".to_owned(),
            );
        }
    }
    references
}
