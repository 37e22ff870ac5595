//! Policy files to a [`Policy`]: every error of every file at once.

mod account;
mod address;
mod choice;
mod defaults;
mod glob;
mod identity;
mod launcher;
mod limit;
mod port;
mod reader;
mod role;
mod selector;
mod tagging;
mod zone;

use std::{collections::BTreeMap, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub(super) use self::reader::Keys;
use self::reader::Reader;
#[cfg(test)]
pub(super) use self::{
    KEYS as POLICY_FILE,
    defaults::KEYS as DEFAULTS,
    identity::KEYS as IDENTITY,
    launcher::KEYS as LAUNCHER,
    limit::{KEYS as LIMITS, RATE_KEYS as RATE},
    role::{KEYS as ROLE, RULE_KEYS as RULE},
    selector::{CONTAINER_KEYS as CONTAINER, MATCH_KEYS as MATCH, REQUIRES_KEYS as REQUIRES},
    tagging::{CLASS_KEYS as CLASS, TAGS_KEYS as TAGS},
    zone::KEYS as ZONE,
};
use super::{
    Policy, Role,
    diagnostic::{Diagnostic, Diagnostics},
    source::{Place, Source, Sources},
    spelling::nearest,
    zone::{built_in_names, is_built_in},
};

pub(in crate::policy) const KEYS: Keys = Keys {
    known: &[
        "zones",
        "roles",
        "identities",
        "defaults",
        "classes",
        "tags",
        "launchers",
    ],
    later: &[
        (
            "approvals",
            "give roles in `[identities.NAME]`; to end one, use `expires`",
        ),
        (
            "grants",
            "give roles in `[identities.NAME]`; to end one, use `expires`",
        ),
    ],
    elsewhere: &[(
        "limits",
        "put them into a role, `[roles.NAME.limits]`, or a class, `[defaults.limits.CLASS]`",
    )],
};

/// Parses all files to one policy.
///
/// # Errors
///
/// Everything that is wrong with any of the files, those that could not be read included.
pub fn load(sources: &Sources) -> Result<Policy, Diagnostics> {
    let mut loader = Loader {
        policy: Policy::default(),
        diagnostics: sources.diagnostics.clone(),
        defaults_seen: BTreeMap::new(),
        limits_seen: BTreeMap::new(),
        classes_seen: BTreeMap::new(),
        without_match: Vec::new(),
    };
    let mut whole = loader.diagnostics.is_empty();
    for source in &sources.files {
        whole &= loader.read_file(source);
    }
    // A file that does not parse may define what others name.
    if whole {
        loader.check_references();
    }
    loader.check_reachable();
    loader.check_marks();
    if loader.diagnostics.is_empty() {
        return Ok(loader.policy);
    }
    loader.diagnostics.sort();
    Err(loader.diagnostics)
}

/// One load in progress.
struct Loader {
    policy: Policy,
    diagnostics: Diagnostics,
    defaults_seen: BTreeMap<&'static str, Place>,
    limits_seen: BTreeMap<String, Place>,
    classes_seen: BTreeMap<String, Place>,
    /// Names of identities without `match`, and where they stand.
    without_match: Vec<(String, Place)>,
}

impl Loader {
    /// Adds a file to the policy. Returns whether it is TOML.
    fn read_file(&mut self, source: &Arc<Source>) -> bool {
        let (document, errors) = DeTable::parse_recoverable(source.text());
        if !errors.is_empty() {
            self.refuse_syntax(source, &errors);
            return false;
        }
        let mut reader = Reader::new(source, &mut self.diagnostics);
        let document = document.get_ref();
        reader.check_keys(document, "a policy file", &KEYS);
        for (name, table, place) in reader.named_tables(document, "zones", "zone") {
            let defined = self.policy.zones.get(name).map(|zone| &zone.place);
            if reader.check_duplicate("zone", name, &place, defined) {
                let zone = zone::parse(&mut reader, name, table, place);
                self.policy.zones.insert(name.to_owned(), zone);
            }
        }
        for (name, table, place) in reader.named_tables(document, "roles", "role") {
            let defined = self.policy.roles.get(name).map(|role| &role.place);
            if reader.check_duplicate("role", name, &place, defined) {
                let role = role::parse(&mut reader, name, table, place);
                self.policy.roles.insert(name.to_owned(), role);
            }
        }
        for (name, table, place) in reader.named_tables(document, "identities", "identity") {
            let defined = self.policy.identities.get(name).map(|known| &known.place);
            if !reader.check_duplicate("identity", name, &place, defined) {
                continue;
            }
            if !table.contains_key("match") {
                self.without_match.push((name.to_owned(), place.clone()));
            }
            if let Some(identity) = identity::parse(&mut reader, name, table, place) {
                self.policy.identities.insert(name.to_owned(), identity);
            }
        }
        if let Some(table) = reader.table(document, "defaults") {
            defaults::parse(
                &mut reader,
                table,
                &mut self.policy.defaults,
                &mut self.defaults_seen,
                &mut self.limits_seen,
            );
        }
        for (name, table, place) in reader.named_tables(document, "classes", "class") {
            reader.check_keys(table, "a class", &tagging::CLASS_KEYS);
            let words = identity::CLASSES.map(|(word, _)| word);
            if !words.contains(&name) {
                let help = match nearest(name, words) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("the classes are {}", reader::quoted(&words)),
                };
                reader.error(place.span(), format!("there is no class `{name}`"), help);
            }
            if reader.check_duplicate("class", name, &place, self.classes_seen.get(name)) {
                let tagging = tagging::parse(&mut reader, table);
                self.policy.classes.insert(name.to_owned(), tagging);
                self.classes_seen.insert(name.to_owned(), place);
            }
        }
        if let Some(table) = reader.table(document, "tags")
            && let Some(mask) = tagging::parse_mask(&mut reader, table)
            && let Some(place) = &mask.place
        {
            let first = self.policy.mark_mask.place.as_ref();
            if reader.check_duplicate("tag", "mark-mask", place, first) {
                self.policy.mark_mask = mask;
            }
        }
        for (table, place) in reader.tables(document, "launchers", "launchers") {
            let launcher = launcher::parse(&mut reader, table, place);
            self.policy.launchers.extend(launcher);
        }
        true
    }

    /// Reports what the TOML parser found. Past the first error that is no duplicate key it only
    /// guesses, so that is where the list ends.
    fn refuse_syntax(&mut self, source: &Arc<Source>, errors: &[toml::de::Error]) {
        for error in errors {
            let mend = syntax_mend(error.message());
            let end = source.text().len();
            let span = error.span().unwrap_or(end..end);
            self.diagnostics.push(
                Diagnostic::error(error.message())
                    .at(Place::new(source, span))
                    .help(mend),
            );
            if !error.message().starts_with("duplicate key") {
                break;
            }
        }
    }

    /// Every zone that a rule names and every role that an identity names must be defined.
    fn check_references(&mut self) {
        let policy = &self.policy;
        for rule in policy.roles.values().flat_map(Role::rules) {
            for (name, place) in &rule.zones {
                if !is_built_in(name) && !policy.zones.contains_key(name) {
                    let known = built_in_names().chain(policy.zones.keys().map(String::as_str));
                    self.diagnostics
                        .push(undefined("zone", "zones", name, place, known));
                }
            }
        }
        for identity in policy.identities.values() {
            for (name, place) in &identity.roles {
                if !policy.roles.contains_key(name) {
                    let known = policy.roles.keys().map(String::as_str);
                    self.diagnostics
                        .push(undefined("role", "roles", name, place, known));
                }
            }
        }
    }

    /// A mark may only have bits that are agentguard's.
    fn check_marks(&mut self) {
        let mask = &self.policy.mark_mask;
        let identities = self.policy.identities.values().map(|found| &found.tagging);
        for (mark, place) in identities
            .chain(self.policy.classes.values())
            .filter_map(|tagging| tagging.mark.as_ref())
        {
            let outside = mark & !mask.bits;
            if outside == 0 {
                continue;
            }
            let mut error = Diagnostic::error(format!(
                "mark {mark:#x} has bits outside the mask {:#x}",
                mask.bits
            ))
            .at(place.clone())
            .help(format!(
                "take another mark, or let agentguard have these bits: `[tags]` with `mark-mask = \
                 {:#x}`",
                mask.bits | outside
            ));
            if let Some(place) = &mask.place {
                error = error.related("the mask is set here", place.clone());
            }
            self.diagnostics.push(error);
        }
    }

    /// What nothing could become is hardly meant.
    fn check_reachable(&mut self) {
        let globs = || {
            let launchers = self.policy.launchers.iter();
            launchers.flat_map(|launcher| &launcher.identities)
        };
        for (name, place) in &self.without_match {
            let known = self.policy.identities.get(name);
            let claimable = known.is_some_and(|identity| identity.claimable_by_unit);
            let launched = globs().any(|glob| glob.compile_matcher().is_match(name));
            if claimable || launched {
                continue;
            }
            self.diagnostics.push(
                Diagnostic::error(format!(
                    "identity `{name}` has no `match`: nothing could become it"
                ))
                .at(place.clone())
                .help(format!(
                    "add `[[identities.{name}.match]]` with `systemd-unit = \"{name}.service\"`"
                )),
            );
        }
    }
}

fn undefined<'a>(
    noun: &str,
    table: &str,
    name: &str,
    place: &Place,
    known: impl Iterator<Item = &'a str>,
) -> Diagnostic {
    let help = match nearest(name, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("define it in a table `[{table}.{name}]`"),
    };
    Diagnostic::error(format!("{noun} `{name}` is not defined"))
        .at(place.clone())
        .help(help)
}

fn syntax_mend(message: &str) -> &'static str {
    if message.starts_with("duplicate key") {
        "merge the two, or rename one: a key or table stands once"
    } else if message.contains("unclosed array") || message.contains("missing comma") {
        "separate the values of an array with commas and end it with `]`"
    } else if message.contains("unclosed table") {
        "end the table's name with `]`, or `]]` where it began with `[[`"
    } else if message.contains("string") || message.contains("quote") {
        "write text in double quotes, on one line: \"text\""
    } else if message.contains("key with no value") || message.contains("missing assignment") {
        "write it as `key = value`"
    } else {
        "write it in TOML: `[table]`, then lines of `key = value`, with text in double quotes"
    }
}

/// The value of `key`, if the table has it.
fn value<'a, 'i>(table: &'a DeTable<'i>, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    table.get(key)
}
