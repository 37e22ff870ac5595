use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::policy::parse::{
    CLASS, CONTAINER, DEFAULTS, IDENTITY, Keys, LAUNCHER, LIMITS, MATCH, POLICY_FILE, RATE,
    REQUIRES, ROLE, RULE, TAGS, ZONE,
};

#[test]
fn the_schema_has_the_keys_of_the_parser() {
    let schema = schema().to_value();
    let definition = |name: &str| schema.pointer(&format!("/$defs/{name}")).unwrap();
    let tables: [(&Value, &Keys); 14] = [
        (&schema, &POLICY_FILE),
        (definition("ZoneTable"), &ZONE),
        (definition("RoleTable"), &ROLE),
        (definition("RuleTable"), &RULE),
        (definition("IdentityTable"), &IDENTITY),
        (definition("MatchTable"), &MATCH),
        (definition("ContainerTable"), &CONTAINER),
        (definition("RequiresTable"), &REQUIRES),
        (definition("ClassTable"), &CLASS),
        (definition("TagsTable"), &TAGS),
        (definition("LauncherTable"), &LAUNCHER),
        (definition("DefaultsTable"), &DEFAULTS),
        (definition("LimitsTable"), &LIMITS),
        (definition("RateTable"), &RATE),
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
fn only_class_addresses_and_what_is_launched_are_required() {
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
        serde_json::json!(["class"])
    );
    assert_eq!(
        required("/$defs/LauncherTable"),
        serde_json::json!(["identities"])
    );
}
