use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::policy::parse::{DEFAULTS, IDENTITY, Keys, MATCH, POLICY_FILE, ROLE, RULE, ZONE};

#[test]
fn the_schema_has_the_keys_of_the_parser() {
    let schema = schema().to_value();
    let definition = |name: &str| schema.pointer(&format!("/$defs/{name}")).unwrap();
    let tables: [(&Value, &Keys); 7] = [
        (&schema, &POLICY_FILE),
        (definition("ZoneTable"), &ZONE),
        (definition("RoleTable"), &ROLE),
        (definition("RuleTable"), &RULE),
        (definition("IdentityTable"), &IDENTITY),
        (definition("MatchTable"), &MATCH),
        (definition("DefaultsTable"), &DEFAULTS),
    ];
    for (table, keys) in tables {
        let properties = table.get("properties").and_then(Value::as_object).unwrap();
        let found: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        let known: BTreeSet<&str> = keys.known.iter().copied().collect();
        assert_eq!(found, known, "{table:#}");
        assert_eq!(table.get("additionalProperties"), Some(&Value::Bool(false)));
    }
}

#[test]
fn only_class_match_and_addresses_are_required() {
    let schema = schema().to_value();
    let required = |pointer: &str| {
        schema
            .pointer(pointer)
            .map_or_else(Value::default, |table| table["required"].clone())
    };
    assert_eq!(required(""), Value::Null);
    assert_eq!(
        required("/$defs/ZoneTable"),
        serde_json::json!(["addresses"])
    );
    assert_eq!(required("/$defs/RuleTable"), Value::Null);
    assert_eq!(
        required("/$defs/IdentityTable"),
        serde_json::json!(["class", "match"])
    );
}
