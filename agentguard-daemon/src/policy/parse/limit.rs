//! Tables of limits, and the quantities in them.

mod quantity;

use agentguard_common::limit::Scope;
use toml::de::{DeTable, DeValue};

use self::quantity::{Wrong, bandwidth, quota, rate};
use super::{
    choice::parse_choice,
    reader::{Keys, Reader},
    value,
};
use crate::policy::{
    limit::{Bandwidth, LimitSet, Limits, Rate},
    source::Place,
};

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &[
        "connections",
        "concurrent",
        "egress",
        "ingress",
        "egress-quota",
        "ingress-quota",
        "per",
        "on-limit",
        "on-quota",
    ],
    later: &[],
    elsewhere: &[],
};

pub(in crate::policy) const RATE_KEYS: Keys = Keys {
    known: &["rate", "burst"],
    later: &[],
    elsewhere: &[],
};

/// Most flows that may come at once, or be open.
const MAX_FLOWS: u64 = 10_000_000;

const SCOPES: [(&str, Scope); 4] = [
    ("identity", Scope::Identity),
    ("process", Scope::Process),
    ("cgroup", Scope::Cgroup),
    ("destination", Scope::Destination),
];

/// What a table of limits is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A role, or a class.
    Identity,
    /// An egress rule.
    Egress,
    /// An ingress rule.
    Ingress,
}

/// The table `limits` of `table`, without what was refused; nothing where there is none, or all was.
pub(super) fn parse(reader: &mut Reader<'_>, table: &DeTable<'_>, of: Of) -> Option<Limits> {
    let (written, _) = table.get_key_value("limits")?;
    let place = reader.place(written.span());
    let found = value(table, "limits")?;
    let Some(limits) = found.get_ref().as_table() else {
        let mend = "write `limits = { connections = \"20/s\" }`, or a table of them";
        reader.wrong_type(found, "limits", "a table", mend);
        return None;
    };
    parse_table(reader, limits, of, place)
}

/// As [`parse`], of the table itself.
pub(super) fn parse_table(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    of: Of,
    place: Place,
) -> Option<Limits> {
    reader.check_keys(table, "`limits`", &KEYS);
    let bandwidth = |reader: &mut Reader<'_>, key| {
        parse_quantity(reader, table, key, "10Mbit/s", bandwidth)
            .map(|bits_per_second| Bandwidth { bits_per_second })
    };
    let quota =
        |reader: &mut Reader<'_>, key| parse_quantity(reader, table, key, "5GiB/day", quota);
    let set = LimitSet {
        connections: parse_rate(reader, table),
        concurrent: parse_flows(reader, table, "concurrent"),
        egress: bandwidth(reader, "egress"),
        ingress: bandwidth(reader, "ingress"),
        egress_quota: quota(reader, "egress-quota"),
        ingress_quota: quota(reader, "ingress-quota"),
        is_audit: parse_choice(
            reader,
            table,
            "on-limit",
            &[("error", false), ("audit", true)],
        )
        .unwrap_or(false),
        quota_drops_packets: parse_choice(
            reader,
            table,
            "on-quota",
            &[("new-flows", false), ("all-packets", true)],
        )
        .unwrap_or(false),
    };
    let per = parse_choice(reader, table, "per", &SCOPES).unwrap_or(Scope::Identity);
    check(reader, table, of, per, &place);
    (!set.is_empty()).then_some(Limits { set, per, place })
}

/// Text with a unit.
fn parse_quantity<T>(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &str,
    example: &str,
    read: fn(&str) -> Result<T, Wrong>,
) -> Option<T> {
    let found = value(table, key)?;
    let Some(text) = found.get_ref().as_str() else {
        let mend = format!("write it with its unit: `{key} = \"{example}\"`");
        reader.wrong_type(found, key, "a string", &mend);
        return None;
    };
    match read(text) {
        Ok(found) => Some(found),
        Err(Wrong(message, help)) => {
            reader.error(found.span(), message, help);
            None
        }
    }
}

/// What each key is right by itself may not be together.
fn check(reader: &mut Reader<'_>, table: &DeTable<'_>, of: Of, per: Scope, place: &Place) {
    let is_said = |key: &str| !["per", "on-limit", "on-quota"].contains(&key);
    if !table.keys().any(|key| is_said(key.get_ref())) {
        reader.error(
            place.span(),
            "these limits limit nothing".to_owned(),
            "add `connections`, `concurrent`, `egress`, `ingress` or a quota, or remove them"
                .to_owned(),
        );
    }
    let quotas = ["egress-quota", "ingress-quota"];
    for key in quotas {
        let Some(found) = value(table, key) else {
            continue;
        };
        if per != Scope::Identity {
            reader.error(
                found.span(),
                "a quota is of the whole identity".to_owned(),
                "remove `per`, or put the quota into the limits of a role without `per`".to_owned(),
            );
        }
    }
    if let Some(found) = value(table, "on-quota")
        && !quotas.iter().any(|&key| table.contains_key(key))
    {
        reader.error(
            found.span(),
            "there is no quota that `on-quota` could be about".to_owned(),
            "add `egress-quota` or `ingress-quota`, or remove `on-quota`".to_owned(),
        );
    }
    if of == Of::Ingress
        && let Some(found) = value(table, "connections")
    {
        reader.error(
            found.span(),
            "`connections` counts the flows that the identity opens, and an ingress rule is about \
             those of others"
                .to_owned(),
            "limit them by `concurrent`".to_owned(),
        );
    }
}

/// `"20/s"`, or the same with its burst.
fn parse_rate(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Rate> {
    let found = value(table, "connections")?;
    let (owner, key) = match found.get_ref() {
        DeValue::String(_) => (table, "connections"),
        DeValue::Table(inner) => {
            reader.check_keys(inner, "`connections`", &RATE_KEYS);
            if !inner.contains_key("rate") {
                reader.error(
                    found.span(),
                    "`connections` has no `rate`".to_owned(),
                    "write `connections = { rate = \"20/s\", burst = 40 }`".to_owned(),
                );
                return None;
            }
            (inner, "rate")
        }
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => {
            reader.wrong_type(
                found,
                "connections",
                "a rate",
                "write `connections = \"20/s\"`, or `{ rate = \"20/s\", burst = 40 }`",
            );
            return None;
        }
    };
    let (text, span) = reader.string(owner, key)?;
    let burst = if key == "rate" {
        parse_flows(reader, owner, "burst")
    } else {
        None
    };
    match rate(text) {
        Ok(mut rate) => {
            rate.burst = burst.unwrap_or(rate.burst);
            Some(rate)
        }
        Err(Wrong(message, help)) => {
            reader.error(span, message, help);
            None
        }
    }
}

/// A number of flows.
fn parse_flows(reader: &mut Reader<'_>, table: &DeTable<'_>, key: &str) -> Option<u64> {
    let found = value(table, key)?;
    let DeValue::Integer(number) = found.get_ref() else {
        reader.wrong_type(found, key, "a number", &format!("write `{key} = 40`"));
        return None;
    };
    let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
    match number {
        Some(1..=MAX_FLOWS) => number,
        Some(0) => {
            reader.error(
                found.span(),
                format!("`{key}` of 0 lets nothing pass"),
                "to refuse all, leave the rule out, or write a rule with `deny = true`".to_owned(),
            );
            None
        }
        _ => {
            reader.error(
                found.span(),
                format!("`{key}` is out of range"),
                format!("write a number from 1 to {MAX_FLOWS}"),
            );
            None
        }
    }
}
