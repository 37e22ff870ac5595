//! Gives each distinct condition a bit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agentguard_common::{
    capacity::MAX_USERS,
    fact::{FIRST_NAMED, KIND_GROUP, KIND_USER, LOGIN, MAX_FACTS},
};
use globset::Glob;

use crate::policy::{
    Account, AccountName, Conditions, HostFacts, Requires,
    condition::{Accounts, Condition, ContainerCondition},
    diagnostic::{Diagnostic, Diagnostics},
    selection::{Fact, HashFacts, UserFacts},
    source::Place,
    spelling::nearest,
};

/// Conditions on the facts of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mask {
    /// All of these hold.
    pub(super) required: u64,
    /// None of these holds.
    pub(super) forbidden: u64,
}

impl Mask {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            required: self.required | other.required,
            forbidden: self.forbidden | other.forbidden,
        }
    }

    /// Whether it can hold at all.
    pub(super) fn is_possible(self) -> bool {
        self.required & self.forbidden == 0
    }

    /// Whether `other` holds wherever this does.
    pub(super) fn implies(self, other: Self) -> bool {
        self.required & other.required == other.required
            && self.forbidden & other.forbidden == other.forbidden
    }
}

/// The facts of a policy so far.
pub(super) struct Facts<'a> {
    host: &'a HostFacts,
    facts: Vec<Fact>,
    bits: HashMap<String, u32>,
    hashes: Vec<HashFacts>,
    /// Where the first condition stands that got no bit, and how many got none.
    refused: Option<(Place, usize)>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(host: &'a HostFacts) -> Self {
        Self {
            host,
            facts: Vec::new(),
            bits: HashMap::new(),
            hashes: Vec::new(),
            refused: None,
        }
    }

    /// The bit of a condition: the same for the same words.
    fn bit(&mut self, condition: Condition, place: &Place) -> u64 {
        let text = condition.text();
        if let Some(&bit) = self.bits.get(&text) {
            return 1u64.checked_shl(bit).unwrap_or(0);
        }
        let bit = FIRST_NAMED + u32::try_from(self.bits.len()).unwrap_or(MAX_FACTS);
        self.bits.insert(text.clone(), bit);
        if bit >= MAX_FACTS {
            let (_, count) = self.refused.get_or_insert_with(|| (place.clone(), 0));
            *count += 1;
            return 0;
        }
        self.facts.push(Fact { text, condition });
        1 << bit
    }

    /// Of what is about users and logins.
    pub(super) fn of_user(
        &mut self,
        conditions: &Conditions,
        place: &Place,
        diagnostics: &mut Diagnostics,
    ) -> Mask {
        let mut mask = match conditions.login {
            Some(true) => Mask {
                required: LOGIN,
                forbidden: 0,
            },
            Some(false) => Mask {
                required: 0,
                forbidden: LOGIN,
            },
            None => Mask::default(),
        };
        if let Some(users) = &conditions.users {
            let users = accounts(users, "user", &self.host.users, diagnostics);
            mask.required |= self.bit(Condition::Users(users), place);
        }
        if let Some(groups) = &conditions.groups {
            let groups = accounts(groups, "group", &self.host.groups, diagnostics);
            mask.required |= self.bit(Condition::Groups(groups), place);
        }
        mask
    }

    /// Of what is about cgroups.
    pub(super) fn of_cgroup(&mut self, conditions: &Conditions, place: &Place) -> Mask {
        let required = of_cgroup(conditions)
            .into_iter()
            .fold(0, |bits, condition| bits | self.bit(condition, place));
        Mask {
            required,
            forbidden: 0,
        }
    }

    /// Of what an identity or rule requires.
    pub(super) fn of_requires(
        &mut self,
        requires: Option<&Requires>,
        diagnostics: &mut Diagnostics,
    ) -> Mask {
        let Some(requires) = requires else {
            return Mask::default();
        };
        let place = &requires.place;
        let mut mask = self
            .of_user(&requires.conditions, place, diagnostics)
            .and(self.of_cgroup(&requires.conditions, place));
        if let Some(globs) = &requires.parent_executables {
            mask.required |= self.bit(Condition::Parent(globs.clone()), place);
        }
        mask
    }

    /// Of executables with certain contents.
    pub(super) fn of_hash(&mut self, paths: &[Glob], sha256: &[[u8; 32]], place: &Place) -> u64 {
        let digests: Vec<String> = sha256
            .iter()
            .map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        let paths: Vec<&str> = paths.iter().map(Glob::glob).collect();
        let text = format!("sha256 of {} = {}", paths.join(", "), digests.join(", "));
        let facts = self.bit(Condition::Hash(text), place);
        if !self.hashes.iter().any(|known| known.facts == facts) {
            self.hashes.push(HashFacts {
                paths: paths.into_iter().map(Into::into).collect(),
                sha256: sha256.to_vec(),
                facts,
            });
        }
        facts
    }

    /// The parents that are asked for, each with its bit.
    pub(super) fn parents(&self) -> impl Iterator<Item = (&[Glob], u64)> {
        (FIRST_NAMED..).zip(&self.facts).filter_map(|(bit, fact)| {
            let Condition::Parent(globs) = &fact.condition else {
                return None;
            };
            Some((globs.as_slice(), 1 << bit))
        })
    }

    /// A mask in the words of the policy.
    pub(super) fn texts(&self, mask: Mask) -> Vec<String> {
        let no_login = (mask.forbidden & LOGIN != 0).then(|| "login = false".to_owned());
        let login = (mask.required & LOGIN != 0).then(|| "login = true".to_owned());
        let named = (FIRST_NAMED..)
            .zip(&self.facts)
            .filter(|&(bit, _)| mask.required & 1 << bit != 0)
            .map(|(_, fact)| fact.text.clone());
        no_login.into_iter().chain(login).chain(named).collect()
    }

    /// The facts, and those of users and files.
    pub(super) fn finish(
        self,
        diagnostics: &mut Diagnostics,
    ) -> (Vec<Fact>, Vec<UserFacts>, Vec<HashFacts>) {
        if let Some((place, count)) = self.refused {
            let fit = MAX_FACTS - FIRST_NAMED;
            diagnostics.push(
                Diagnostic::error(format!(
                    "the policy has {} distinct conditions; {fit} fit, and this is the first that \
                     does not",
                    fit as usize + count
                ))
                .at(place)
                .help(
                    "write the same condition in the same words, put users into a group of the \
                     host, or units into a slice, and name that",
                ),
            );
        }
        let mut users: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (bit, fact) in (FIRST_NAMED..).zip(&self.facts) {
            let mut add = |kind, id| *users.entry((kind, id)).or_default() |= 1 << bit;
            if let Condition::Users(found) = &fact.condition {
                found.ids.iter().for_each(|&id| add(KIND_USER, id));
            } else if let Condition::Groups(found) = &fact.condition {
                for &id in &found.ids {
                    add(KIND_GROUP, id);
                    let members = self.host.members.get(&id);
                    members
                        .into_iter()
                        .flatten()
                        .for_each(|&id| add(KIND_USER, id));
                }
            }
        }
        if users.len() > MAX_USERS as usize / 2 {
            diagnostics.push(
                Diagnostic::error(format!(
                    "the policy names {} users and groups, members included; {} fit",
                    users.len(),
                    MAX_USERS / 2
                ))
                .help("name groups with fewer members"),
            );
        }
        let users = users
            .into_iter()
            .map(|((kind, id), facts)| UserFacts { kind, id, facts });
        (self.facts, users.collect(), self.hashes)
    }
}

/// The conditions on cgroups.
pub(super) fn of_cgroup(conditions: &Conditions) -> Vec<Condition> {
    let matcher = |glob: &Option<Glob>| glob.as_ref().map(Glob::compile_matcher);
    let container = conditions.container.as_ref().map(ContainerCondition::new);
    [
        matcher(&conditions.unit).map(Condition::Unit),
        matcher(&conditions.slice).map(Condition::Slice),
        matcher(&conditions.cgroup).map(Condition::Cgroup),
        container.map(|found| Condition::Container(found.into())),
        matcher(&conditions.session_class).map(Condition::SessionClass),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The numbers of users or groups. A name that the host does not have is reported.
pub(super) fn accounts(
    accounts: &[Account],
    noun: &str,
    known: &BTreeMap<String, u32>,
    diagnostics: &mut Diagnostics,
) -> Accounts {
    let mut ids = BTreeSet::new();
    let mut texts = Vec::new();
    for account in accounts {
        match &account.name {
            AccountName::Number(number) => {
                ids.insert(*number);
                texts.push(number.to_string());
            }
            AccountName::Name(name) => {
                texts.push(format!("{name:?}"));
                if let Some(&id) = known.get(name) {
                    ids.insert(id);
                    continue;
                }
                let mend = match nearest(name, known.keys().map(String::as_str)) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!(
                        "make the {noun} first, or write its number: it may then come later"
                    ),
                };
                diagnostics.push(
                    Diagnostic::error(format!("this host has no {noun} `{name}`"))
                        .at(account.place.clone())
                        .help(mend),
                );
            }
        }
    }
    let text = match texts.as_slice() {
        [text] => text.clone(),
        _ => format!("[{}]", texts.join(", ")),
    };
    Accounts { ids, text }
}
