//! `[identities.NAME]`.

use jiff::Timestamp;
use toml::de::DeTable;

use super::{
    choice::parse_choice,
    reader::{Keys, Reader},
    role::parse_references,
    selector, tagging, value,
};
use crate::policy::{
    Expiry, Identity, Selector,
    compiled::{Class, Mode},
    source::Place,
};

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &[
        "class",
        "owner",
        "purpose",
        "environment",
        "roles",
        "mode",
        "expires",
        "match",
        "requires",
        "claimable-by-unit",
        "mark",
        "dscp",
    ],
    later: &[(
        "grants",
        "give roles in `roles`; to end them, use `expires`",
    )],
    elsewhere: &[(
        "limits",
        "put them into a role that it has: `[roles.NAME.limits]`",
    )],
};

pub(super) const CLASSES: [(&str, Class); 6] = [
    ("agent", Class::Agent),
    ("ci", Class::Ci),
    ("cron", Class::Cron),
    ("service", Class::Service),
    ("human", Class::Human),
    ("unknown", Class::Unknown),
];

const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];

/// An identity, or nothing where it lacks what it cannot be without.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    name: &str,
    table: &DeTable<'_>,
    place: Place,
) -> Option<Identity> {
    reader.check_keys(table, "an identity", &KEYS);
    if !table.contains_key("class") {
        reader.error(
            place.span(),
            format!("identity `{name}` has no class"),
            "add `class = \"agent\"`, or `ci`, `cron`, `service`, `human`".to_owned(),
        );
    }
    let header = format!("identities.{name}.match");
    let selectors: Vec<Selector> = reader
        .tables(table, "match", &header)
        .into_iter()
        .filter_map(|(selector, place)| selector::parse(reader, selector, place))
        .collect();
    let mut text = |key: &str| reader.string(table, key).map(|(text, _)| text.to_owned());
    let (owner, purpose, environment) = (text("owner"), text("purpose"), text("environment"));
    let mode = parse_choice(reader, table, "mode", &MODES).unwrap_or(Mode::Enforce);
    let expires = parse_expiry(reader, table);
    let roles = parse_references(reader, table, "roles");
    let requires = selector::parse_requires(reader, table);
    let claimable_by_unit = reader.bool(table, "claimable-by-unit").unwrap_or(false);
    let tagging = tagging::parse(reader, table);
    Some(Identity {
        class: parse_choice(reader, table, "class", &CLASSES)?,
        place,
        owner,
        purpose,
        environment,
        roles,
        mode,
        expires,
        selectors,
        requires,
        claimable_by_unit,
        tagging,
    })
}

fn parse_expiry(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Expiry> {
    let found = value(table, "expires")?;
    let Some(written) = found.get_ref().as_datetime() else {
        let mend = match found.get_ref().as_str() {
            Some(text) if text.parse::<Timestamp>().is_ok() => {
                format!("write it without quotes: `expires = {text}`")
            }
            _ => "write `expires = 2027-01-31T00:00:00Z`".to_owned(),
        };
        reader.wrong_type(found, "expires", "a date and time", &mend);
        return None;
    };
    let text = written.to_string();
    if written.offset.is_none() {
        let mend = match (written.date, written.time) {
            (Some(_), Some(_)) => format!("add `Z` for UTC, or an offset: {text}Z, {text}+02:00"),
            (Some(_), None) => format!("add the time and `Z` for UTC: {text}T00:00:00Z"),
            (None, _) => "add the date and `Z` for UTC: 2027-01-31T00:00:00Z".to_owned(),
        };
        reader.error(
            found.span(),
            format!("`{text}` is another instant in each time zone"),
            mend,
        );
        return None;
    }
    let at = text.parse::<Timestamp>();
    if let Err(error) = &at {
        let mend = "write an instant such as 2027-01-31T00:00:00Z".to_owned();
        reader.error(found.span(), format!("`{text}`: {error}"), mend);
    }
    Some(Expiry {
        at: at.ok()?,
        place: reader.place(found.span()),
    })
}
