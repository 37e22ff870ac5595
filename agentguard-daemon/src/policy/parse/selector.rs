//! `match` tables, and what identities and rules require.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::{
    account,
    choice::parse_choice,
    glob,
    reader::{Keys, Reader},
    value,
};
use crate::{
    identity::context::Runtime,
    policy::{Conditions, Container, Executables, Requires, Selector, source::Place},
};

const USE_UNIT: &str = "use `systemd-unit` or `cgroup`";

pub(in crate::policy) const MATCH_KEYS: Keys = Keys {
    known: &[
        "systemd-unit",
        "slice",
        "cgroup",
        "container",
        "user",
        "group",
        "login",
        "session-class",
        "executable",
        "sha256",
        "inherit",
    ],
    later: &[
        (
            "parent",
            "use `requires = { parent-executable = \"/PATH\" }` in the identity",
        ),
        ("namespace", USE_UNIT),
    ],
    elsewhere: &[],
};

pub(in crate::policy) const REQUIRES_KEYS: Keys = Keys {
    known: &[
        "login",
        "unit",
        "slice",
        "container",
        "user",
        "group",
        "session-class",
        "parent-executable",
    ],
    later: &[],
    elsewhere: &[],
};

pub(in crate::policy) const CONTAINER_KEYS: Keys = Keys {
    known: &["runtime", "id", "name", "image", "labels"],
    later: &[],
    elsewhere: &[],
};

const RUNTIMES: [(&str, Runtime); 4] = [
    ("docker", Runtime::Docker),
    ("podman", Runtime::Podman),
    ("containerd", Runtime::Containerd),
    ("cri-o", Runtime::CriO),
];

/// One `match` table, or nothing where it says nothing that is valid.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    place: Place,
) -> Option<Selector> {
    reader.check_keys(table, "a selector", &MATCH_KEYS);
    if table.is_empty() {
        reader.error(
            place.span(),
            "the selector is empty".to_owned(),
            "add `systemd-unit = \"NAME.service\"` or `cgroup = \"/PATH\"`".to_owned(),
        );
    }
    let conditions = parse_conditions(reader, table, "systemd-unit");
    let executables = parse_executables(reader, table);
    let says_something = conditions.any() || executables.is_some();
    says_something.then_some(Selector {
        conditions,
        executables,
        place,
    })
}

/// `requires`, if it is there and valid.
pub(super) fn parse_requires(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Requires> {
    let found = value(table, "requires")?;
    let Some(table) = found.get_ref().as_table() else {
        let mend = "write `requires = { login = true }`";
        reader.wrong_type(found, "requires", "a table", mend);
        return None;
    };
    let place = reader.place(found.span());
    reader.check_keys(table, "`requires`", &REQUIRES_KEYS);
    if table.is_empty() {
        reader.error(
            found.span(),
            "`requires` is empty".to_owned(),
            "add a condition such as `login = true`, or remove it".to_owned(),
        );
    }
    let conditions = parse_conditions(reader, table, "unit");
    let key = "parent-executable";
    let parent_executables = glob::parse_list(reader, table, key, glob::EXECUTABLE);
    (conditions.any() || parent_executables.is_some()).then_some(Requires {
        conditions,
        parent_executables,
        place,
    })
}

fn parse_conditions(reader: &mut Reader<'_>, table: &DeTable<'_>, unit: &str) -> Conditions {
    Conditions {
        unit: glob::parse(reader, table, unit, glob::UNIT),
        slice: glob::parse(reader, table, "slice", glob::SLICE),
        cgroup: glob::parse(reader, table, "cgroup", glob::CGROUP),
        container: parse_container(reader, table),
        users: account::parse_list(reader, table, "user"),
        groups: account::parse_list(reader, table, "group"),
        login: reader.bool(table, "login"),
        session_class: glob::parse(reader, table, "session-class", glob::NAME),
    }
}

impl Conditions {
    fn any(&self) -> bool {
        self.unit.is_some()
            || self.slice.is_some()
            || self.cgroup.is_some()
            || self.container.is_some()
            || self.users.is_some()
            || self.groups.is_some()
            || self.login.is_some()
            || self.session_class.is_some()
    }
}

fn parse_container(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Container> {
    let found = value(table, "container")?;
    let Some(table) = found.get_ref().as_table() else {
        let mend = match found.get_ref().as_str() {
            Some(name) => format!("write `container = {{ name = \"{name}\" }}`"),
            None => "write `container = { name = \"NAME\" }`".to_owned(),
        };
        reader.wrong_type(found, "container", "a table", &mend);
        return None;
    };
    reader.check_keys(table, "`container`", &CONTAINER_KEYS);
    if table.is_empty() {
        reader.error(
            found.span(),
            "`container` is empty".to_owned(),
            "for every container: `container = { id = \"*\" }`".to_owned(),
        );
        return None;
    }
    let container = Container {
        runtime: parse_choice(reader, table, "runtime", &RUNTIMES),
        id: glob::parse(reader, table, "id", glob::NAME),
        name: glob::parse(reader, table, "name", glob::NAME),
        image: glob::parse(reader, table, "image", glob::IMAGE),
        labels: parse_labels(reader, table),
    };
    let valid = container.runtime.is_some()
        || container.id.is_some()
        || container.name.is_some()
        || container.image.is_some()
        || !container.labels.is_empty();
    valid.then_some(container)
}

fn parse_labels(reader: &mut Reader<'_>, table: &DeTable<'_>) -> BTreeMap<String, globset::Glob> {
    let Some(found) = value(table, "labels") else {
        return BTreeMap::new();
    };
    let Some(table) = found.get_ref().as_table() else {
        let mend = "write `labels = { \"com.example.team\" = \"billing\" }`";
        reader.wrong_type(found, "labels", "a table", mend);
        return BTreeMap::new();
    };
    if table.is_empty() {
        reader.error(
            found.span(),
            "`labels` is empty".to_owned(),
            "add a label and a glob over its value, or remove it".to_owned(),
        );
    }
    table
        .keys()
        .filter_map(|key| {
            let key = key.get_ref().as_ref();
            Some((key.to_owned(), glob::parse(reader, table, key, glob::NAME)?))
        })
        .collect()
}

fn parse_executables(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Executables> {
    let globs = glob::parse_list(reader, table, "executable", glob::EXECUTABLE);
    let sha256 = parse_hashes(reader, table);
    let inherit = reader.bool(table, "inherit");
    if !table.contains_key("executable") {
        for key in ["sha256", "inherit"] {
            if let Some((written, _)) = table.get_key_value(key) {
                reader.error(
                    written.span(),
                    format!("`{key}` says something of an executable, and there is none"),
                    format!("add `executable = \"/PATH\"`, or remove `{key}`"),
                );
            }
        }
    }
    let globs = globs?;
    if let Some(open) = globs.iter().find(|glob| !is_literal(glob))
        && let Some(found) = value(table, "sha256")
    {
        reader.error(
            found.span(),
            format!("`{}` is not one file to know by its hash", open.glob()),
            "with `sha256`, write the paths of the executables out, without wildcards".to_owned(),
        );
    }
    Some(Executables {
        globs,
        sha256,
        inherit: inherit.unwrap_or(true),
    })
}

/// Whether a glob is one path, as it is written.
fn is_literal(glob: &globset::Glob) -> bool {
    !glob.glob().contains(['*', '?', '[', '{', '\\'])
}

fn parse_hashes(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Vec<[u8; 32]>> {
    let texts = reader.one_or_more(table, "sha256")?;
    let mut hashes = Vec::new();
    for (text, span) in texts {
        match decode_hash(text) {
            Some(hash) => hashes.push(hash),
            None => reader.error(
                span,
                format!("`{text}` is not a SHA-256"),
                "write its 64 digits of 0-9 a-f, as `sha256sum FILE` prints them".to_owned(),
            ),
        }
    }
    (!hashes.is_empty()).then_some(hashes)
}

fn decode_hash(text: &str) -> Option<[u8; 32]> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(hash)
}
