//! `[roles.NAME]` and its rules.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::{
    address,
    limit::{self, Of},
    port,
    reader::{Keys, Reader},
    selector,
};
use crate::policy::{Effect, Role, Rule, source::Place};

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &["egress", "ingress", "raw-sockets", "limits"],
    later: &[],
    elsewhere: &[],
};

pub(in crate::policy) const RULE_KEYS: Keys = Keys {
    known: &["zones", "addresses", "ports", "deny", "requires", "limits"],
    later: &[("names", "write the addresses that they have in `addresses`")],
    elsewhere: &[],
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
    let limits = limit::parse(reader, table, Of::Identity);
    let mut rules = |direction: &str, of: Of| -> Vec<Rule> {
        let header = format!("roles.{name}.{direction}");
        reader
            .tables(table, direction, &header)
            .into_iter()
            .map(|(rule, place)| parse_rule(reader, rule, of, place))
            .collect()
    };
    Role {
        egress: rules("egress", Of::Egress),
        ingress: rules("ingress", Of::Ingress),
        limits,
        place,
        raw_sockets,
    }
}

fn parse_rule(reader: &mut Reader<'_>, table: &DeTable<'_>, of: Of, place: Place) -> Rule {
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
    let effect = if reader.bool(table, "deny") == Some(true) {
        Effect::Deny
    } else {
        Effect::Allow
    };
    let limits = limit::parse(reader, table, of);
    if effect == Effect::Deny
        && let Some((written, _)) = table.get_key_value("limits")
    {
        reader.error(
            written.span(),
            "a rule that denies lets nothing pass that could be limited".to_owned(),
            "remove `limits`, or `deny`".to_owned(),
        );
    }
    Rule {
        zones: parse_references(reader, table, "zones"),
        addresses: address::parse_list(reader, table).unwrap_or_default(),
        ports: port::parse_list(reader, table),
        effect,
        limits,
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
