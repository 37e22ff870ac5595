//! `[identities.NAME]` and its selectors.

use globset::{Glob, GlobBuilder};
use jiff::Timestamp;
use toml::de::DeTable;

use super::{
    reader::{Keys, Reader, quoted},
    role::parse_references,
    value,
};
use crate::policy::{
    Expiry, Identity, Selector,
    compiled::{Class, Mode},
    source::Place,
    spelling::nearest,
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
    ],
    later: &[
        ("limits", "remove it; so far rules only allow or deny"),
        (
            "grants",
            "give roles in `roles`; to end them, use `expires`",
        ),
    ],
};

const USE_CGROUP: &str = "use `systemd-unit` or `cgroup`";

pub(in crate::policy) const MATCH_KEYS: Keys = Keys {
    known: &["systemd-unit", "cgroup"],
    later: &[
        ("container", "use `cgroup` with the container's cgroup path"),
        (
            "user",
            "use `cgroup` with the user's slice: \"/user.slice/user-1000.slice/**\"",
        ),
        ("group", USE_CGROUP),
        ("executable", USE_CGROUP),
        (
            "login",
            "use `cgroup` with the user's slice: \"/user.slice/user-1000.slice/**\"",
        ),
        ("parent", USE_CGROUP),
        ("namespace", USE_CGROUP),
    ],
};

const CLASSES: [(&str, Class); 6] = [
    ("agent", Class::Agent),
    ("ci", Class::Ci),
    ("cron", Class::Cron),
    ("service", Class::Service),
    ("human", Class::Human),
    ("unknown", Class::Unknown),
];

const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];

/// Endings of the units that have cgroups.
const UNIT_TYPES: [&str; 6] = [".service", ".slice", ".scope", ".socket", ".mount", ".swap"];

/// An identity, or nothing where it lacks what it cannot be without.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    name: &str,
    table: &DeTable<'_>,
    place: Place,
) -> Option<Identity> {
    reader.check_keys(table, "an identity", &KEYS);
    for (key, mend) in [
        (
            "class",
            "add `class = \"agent\"`, or `ci`, `cron`, `service`, `human`".to_owned(),
        ),
        (
            "match",
            format!("add `[[identities.{name}.match]]` with `systemd-unit = \"{name}.service\"`"),
        ),
    ] {
        if !table.contains_key(key) {
            let lack = if key == "match" {
                "has no `match`: nothing could become it"
            } else {
                "has no class"
            };
            reader.error(place.span(), format!("identity `{name}` {lack}"), mend);
        }
    }
    let header = format!("identities.{name}.match");
    let selectors: Vec<Selector> = reader
        .tables(table, "match", &header)
        .into_iter()
        .filter_map(|(selector, place)| parse_selector(reader, selector, place))
        .collect();
    let mut text = |key: &str| reader.string(table, key).map(|(text, _)| text.to_owned());
    let (owner, purpose, environment) = (text("owner"), text("purpose"), text("environment"));
    let mode = parse_choice(reader, table, "mode", &MODES).unwrap_or(Mode::Enforce);
    let expires = parse_expiry(reader, table);
    let roles = parse_references(reader, table, "roles");
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
    })
}

/// The value that one of some words stands for.
pub(super) fn parse_choice<T: Copy>(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &str,
    choices: &[(&str, T)],
) -> Option<T> {
    let (text, span) = reader.string(table, key)?;
    let chosen = choices.iter().find(|(word, _)| *word == text);
    if chosen.is_none() {
        let words: Vec<&str> = choices.iter().map(|&(word, _)| word).collect();
        let help = match nearest(text, words.iter().copied()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => format!("`{key}` is one of {}", quoted(&words)),
        };
        reader.error(span, format!("`{text}` is not a value of `{key}`"), help);
    }
    chosen.map(|&(_, value)| value)
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

fn parse_selector(reader: &mut Reader<'_>, table: &DeTable<'_>, place: Place) -> Option<Selector> {
    reader.check_keys(table, "a selector", &MATCH_KEYS);
    if table.is_empty() {
        reader.error(
            place.span(),
            "the selector is empty".to_owned(),
            "add `systemd-unit = \"NAME.service\"` or `cgroup = \"/PATH\"`".to_owned(),
        );
    }
    let systemd_unit = parse_glob(reader, table, "systemd-unit", mend_unit);
    let cgroup = parse_glob(reader, table, "cgroup", mend_cgroup);
    (systemd_unit.is_some() || cgroup.is_some()).then_some(Selector {
        systemd_unit,
        cgroup,
        place,
    })
}

fn parse_glob(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &str,
    mend: fn(&str) -> Option<String>,
) -> Option<Glob> {
    let (text, span) = reader.string(table, key)?;
    let glob = GlobBuilder::new(text).literal_separator(true).build();
    if let Err(error) = &glob {
        reader.error(
            span,
            format!("`{text}` is not a glob: {}", error.kind()),
            "close what is open, or put a backslash before the character to take it as it is"
                .to_owned(),
        );
    } else if let Some(mend) = mend(text) {
        reader.error(span, format!("`{text}` can match no {key}"), mend);
        return None;
    }
    glob.ok()
}

fn mend_unit(text: &str) -> Option<String> {
    if text.contains('/') {
        return Some("the name of a unit has no `/`; for a path, use `cgroup`".to_owned());
    }
    let open = text.ends_with(['*', '?', ']', '}']);
    let typed = UNIT_TYPES.iter().any(|ending| text.ends_with(ending));
    (!open && !typed).then(|| format!("say which kind of unit: \"{text}.service\""))
}

fn mend_cgroup(text: &str) -> Option<String> {
    if let Some(path) = text.strip_prefix("/sys/fs/cgroup/") {
        return Some(format!("write it from the cgroup root on: \"/{path}\""));
    }
    if !text.starts_with(['/', '{', '[']) && !text.starts_with("**") {
        return Some(format!("a cgroup path starts with a slash: \"/{text}\""));
    }
    if text.len() > 1 && text.ends_with('/') {
        let path = text.trim_end_matches('/');
        return Some(format!("a cgroup path has no slash at its end: \"{path}\""));
    }
    None
}
