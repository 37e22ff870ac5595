//! Which of several selectors is meant, and which of them contradict each other.
//!
//! This is the one place that says so. Of all that match a process
//!
//! 1. the highest rank wins: launch, executable, unit (also slice and container), cgroup path,
//!    session (also user, group and login), default. The rank of a selector is that of its
//!    highest-ranked key;
//! 2. of the same rank, by cgroup, the nearest: the selector that matches the deepest cgroup;
//! 3. then the more specific one: that with more keys, those of `requires` included; of as many, the
//!    one that names a user before a group before a session class before a login; of the same keys,
//!    the one whose every glob or list is contained in the other's.
//!
//! Two identities whose selectors can match the same process, and are ordered by none of this, are
//! an error.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use agentguard_common::cgroup::Rank;
use globset::Glob;

use crate::{
    identity::context::Runtime,
    policy::{
        Conditions, HostFacts, Identity, Requires, Selector,
        diagnostic::{Diagnostic, Diagnostics},
        language::{Comparer, Fit, Reach},
        source::Place,
    },
};

/// The ranks for people, the highest first.
pub const RANKS: &str = "agentguard run > executable > unit, slice, container > cgroup path > \
                         session, user, group, login > built-in";

/// A selector as precedence sees it.
pub(super) struct Draft<'a> {
    /// Name of the identity.
    pub(super) identity: &'a str,
    /// Index of the identity, and of the selector in it.
    pub(super) index: (usize, usize),
    pub(super) rank: Rank,
    place: &'a Place,
    keys: BTreeMap<Key<'a>, Value<'a>>,
}

/// What a key of a selector is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject<'a> {
    Unit,
    Slice,
    Cgroup,
    Runtime,
    ContainerId,
    ContainerName,
    Image,
    Label(&'a str),
    SessionClass,
    User,
    Group,
    Login,
    Executable,
    Sha256,
    Parent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    subject: Subject<'a>,
    /// Whether a cgroup above fulfils it as well.
    below: bool,
}

#[derive(Clone, Debug)]
enum Value<'a> {
    Globs(Vec<&'a Glob>),
    Numbers(BTreeSet<u32>),
    Login(bool),
    Runtime(Runtime),
    Hashes(BTreeSet<[u8; 32]>),
}

/// The rank of a selector.
pub(super) fn rank_of(selector: &Selector) -> Rank {
    let conditions = &selector.conditions;
    if selector.executables.is_some() {
        Rank::Executable
    } else if conditions.unit.is_some()
        || conditions.slice.is_some()
        || conditions.container.is_some()
    {
        Rank::Unit
    } else if conditions.cgroup.is_some() {
        Rank::Cgroup
    } else {
        Rank::Session
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        name: &'a str,
        index: (usize, usize),
        identity: &'a Identity,
        selector: &'a Selector,
        host: &HostFacts,
    ) -> Self {
        let mut keys = BTreeMap::new();
        let below = selector.executables.is_some();
        add_conditions(&mut keys, &selector.conditions, below, false, host);
        if !below && let Some(slice) = lone_slice(&selector.conditions) {
            let key = |subject| Key {
                subject,
                below: false,
            };
            keys.remove(&key(Subject::Slice));
            keys.insert(key(Subject::Unit), Value::Globs(vec![slice]));
        }
        if let Some(executables) = &selector.executables {
            let globs = executables.globs.iter().collect();
            let key = |subject| Key { subject, below };
            keys.insert(key(Subject::Executable), Value::Globs(globs));
            if let Some(hashes) = &executables.sha256 {
                let hashes = hashes.iter().copied().collect();
                keys.insert(key(Subject::Sha256), Value::Hashes(hashes));
            }
        }
        if let Some(requires) = &identity.requires {
            add_requires(&mut keys, requires, host);
        }
        Self {
            identity: name,
            index,
            rank: rank_of(selector),
            place: &selector.place,
            keys,
        }
    }

    fn has(&self, subject: Subject<'_>) -> bool {
        self.keys.keys().any(|key| key.subject == subject)
    }

    /// What is compared before globs are; the greatest wins.
    fn weight(&self) -> (Rank, usize, [bool; 4]) {
        let names = [
            Subject::User,
            Subject::Group,
            Subject::SessionClass,
            Subject::Login,
        ];
        let names = names.map(|subject| self.has(subject));
        (self.rank, self.keys.len(), names)
    }
}

/// The slice of a selector whose only key about cgroups it is: it means the slice itself.
pub(super) fn lone_slice(conditions: &Conditions) -> Option<&Glob> {
    let others = conditions.unit.is_some()
        || conditions.cgroup.is_some()
        || conditions.container.is_some()
        || conditions.session_class.is_some();
    conditions.slice.as_ref().filter(|_| !others)
}

fn add_requires<'a>(
    keys: &mut BTreeMap<Key<'a>, Value<'a>>,
    requires: &'a Requires,
    host: &HostFacts,
) {
    add_conditions(keys, &requires.conditions, true, true, host);
    if let Some(globs) = &requires.parent_executables {
        let key = Key {
            subject: Subject::Parent,
            below: true,
        };
        keys.insert(key, Value::Globs(globs.iter().collect()));
    }
}

/// `required` keeps the users of `requires` apart from those of `match`.
fn add_conditions<'a>(
    keys: &mut BTreeMap<Key<'a>, Value<'a>>,
    conditions: &'a Conditions,
    below: bool,
    required: bool,
    host: &HostFacts,
) {
    let globs = |glob: &'a Option<Glob>| glob.as_ref().map(|glob| Value::Globs(vec![glob]));
    let mut add = |subject, below, value: Option<Value<'a>>| {
        if let Some(value) = value {
            keys.insert(Key { subject, below }, value);
        }
    };
    add(Subject::Unit, below, globs(&conditions.unit));
    add(Subject::Slice, below, globs(&conditions.slice));
    add(Subject::Cgroup, below, globs(&conditions.cgroup));
    add(
        Subject::SessionClass,
        below,
        globs(&conditions.session_class),
    );
    if let Some(container) = &conditions.container {
        add(
            Subject::Runtime,
            below,
            container.runtime.map(Value::Runtime),
        );
        add(Subject::ContainerId, below, globs(&container.id));
        add(Subject::ContainerName, below, globs(&container.name));
        add(Subject::Image, below, globs(&container.image));
        for (label, glob) in &container.labels {
            add(Subject::Label(label), below, Some(Value::Globs(vec![glob])));
        }
    }
    let numbers = |accounts: &Option<Vec<crate::policy::Account>>, noun, known| {
        accounts.as_ref().map(|accounts| {
            // What is wrong with a name is reported where the facts are given out.
            let mut ignored = Diagnostics::default();
            Value::Numbers(super::fact::accounts(accounts, noun, known, &mut ignored).ids)
        })
    };
    let users = numbers(&conditions.users, "user", &host.users);
    add(Subject::User, required, users);
    let groups = numbers(&conditions.groups, "group", &host.groups);
    add(Subject::Group, required, groups);
    add(Subject::Login, required, conditions.login.map(Value::Login));
}

/// Orders selectors, the most specific first, and reports those that contradict each other.
pub(super) fn order(
    mut drafts: Vec<Draft<'_>>,
    host: &HostFacts,
    diagnostics: &mut Diagnostics,
) -> Vec<(usize, usize)> {
    drafts.sort_by_key(|draft| (Reverse(draft.weight()), draft.index));
    let mut comparer = Comparer::default();
    let mut ordered = Vec::new();
    for group in drafts.chunk_by(|a, b| a.weight() == b.weight()) {
        // How many others of the group are wider: what is within another has more of them.
        let mut wider = vec![0usize; group.len()];
        for (second, b) in group.iter().enumerate() {
            for (first, a) in group.iter().enumerate().take(second) {
                match compare(a, b, host, &mut comparer) {
                    Order::Apart => {}
                    Order::First => wider[first] += 1,
                    Order::Second => wider[second] += 1,
                    Order::Same => diagnostics.push(same(a, b)),
                    Order::Unclear(_) if a.identity == b.identity => {}
                    Order::Unclear(witness) => diagnostics.push(unclear(a, b, witness)),
                }
            }
        }
        let mut sorted: Vec<usize> = (0..group.len()).collect();
        sorted.sort_by_key(|&index| (Reverse(wider[index]), index));
        ordered.extend(sorted.into_iter().map(|index| group[index].index));
    }
    ordered
}

/// Which of two selectors of the same weight is more specific.
enum Order {
    /// No process matches both.
    Apart,
    First,
    Second,
    Same,
    /// Some process matches both; a name that both match, where one can be told.
    Unclear(Option<String>),
}

fn compare(a: &Draft<'_>, b: &Draft<'_>, host: &HostFacts, comparer: &mut Comparer) -> Order {
    if are_apart(a, b, host, comparer) {
        return Order::Apart;
    }
    if !a.keys.keys().eq(b.keys.keys()) {
        return Order::Unclear(None);
    }
    let (mut narrower, mut wider, mut crossing) = (false, false, None);
    for ((key, left), right) in a.keys.iter().zip(b.keys.values()) {
        match fit(*key, left, right, host, comparer) {
            Fit::Same => {}
            Fit::Narrower => narrower = true,
            Fit::Wider => wider = true,
            Fit::Disjoint => crossing = Some(None),
            Fit::Crossing(witness) => crossing = Some(witness),
        }
    }
    match (crossing, narrower, wider) {
        (None, false, false) => Order::Same,
        (None, true, false) => Order::First,
        (None, false, true) => Order::Second,
        (None, true, true) => Order::Unclear(None),
        (Some(witness), _, _) => Order::Unclear(witness),
    }
}

/// Names that container runtimes give to the scopes of their containers.
const CONTAINER_SCOPES: &str = "{docker,libpod,crio,cri-containerd,nerdctl}-*.scope";

/// Whether some key shows that no process matches both.
fn are_apart(a: &Draft<'_>, b: &Draft<'_>, host: &HostFacts, comparer: &mut Comparer) -> bool {
    for (key, left) in &a.keys {
        for (other, right) in b.keys.iter().filter(|(o, _)| o.subject == key.subject) {
            // Of what a cgroup above may fulfil, a process may have several.
            let several = matches!(key.subject, Subject::Slice | Subject::Parent);
            let place = matches!(key.subject, Subject::Unit | Subject::Cgroup);
            let single = !several && (!place || key.below == other.below);
            if single && fit(*key, left, right, host, comparer) == Fit::Disjoint {
                return true;
            }
        }
    }
    is_no_container(a, b, comparer) || is_no_container(b, a, comparer)
}

/// Whether `a` means units that are no container's, and `b` containers.
fn is_no_container(a: &Draft<'_>, b: &Draft<'_>, comparer: &mut Comparer) -> bool {
    let key = |subject| Key {
        subject,
        below: false,
    };
    let Some(Value::Globs(units)) = a.keys.get(&key(Subject::Unit)) else {
        return false;
    };
    let is_container = b.keys.keys().any(|key| {
        !key.below
            && matches!(
                key.subject,
                Subject::Runtime
                    | Subject::ContainerId
                    | Subject::ContainerName
                    | Subject::Image
                    | Subject::Label(_)
            )
    });
    is_container
        && Glob::new(CONTAINER_SCOPES)
            .is_ok_and(|scopes| comparer.fit(units, &[&scopes], Reach::Name) == Fit::Disjoint)
}

fn fit(
    key: Key<'_>,
    left: &Value<'_>,
    right: &Value<'_>,
    host: &HostFacts,
    comparer: &mut Comparer,
) -> Fit {
    match (left, right) {
        (Value::Globs(left), Value::Globs(right)) => {
            let reach = if key.subject == Subject::Cgroup && key.below {
                Reach::Tree
            } else {
                Reach::Name
            };
            let found = comparer.fit(left, right, reach);
            let nested = found == Fit::Disjoint && key.subject == Subject::Unit && key.below;
            if nested && can_nest(left, right, comparer) {
                return Fit::Crossing(None);
            }
            found
        }
        (Value::Numbers(left), Value::Numbers(right)) => {
            let found = fit_sets(left, right);
            let shared = found == Fit::Disjoint
                && key.subject == Subject::Group
                && share_user(left, right, host);
            if shared { Fit::Crossing(None) } else { found }
        }
        (Value::Hashes(left), Value::Hashes(right)) => fit_sets(left, right),
        (Value::Login(left), Value::Login(right)) if left == right => Fit::Same,
        (Value::Runtime(left), Value::Runtime(right)) if left == right => Fit::Same,
        _ => Fit::Disjoint,
    }
}

/// Whether a unit that one side means can be in one that the other means: only slices hold units.
fn can_nest(left: &[&Glob], right: &[&Glob], comparer: &mut Comparer) -> bool {
    Glob::new("*.slice").is_ok_and(|slices| {
        [left, right]
            .into_iter()
            .any(|side| comparer.fit(side, &[&slices], Reach::Name) != Fit::Disjoint)
    })
}

fn fit_sets<T: Ord>(left: &BTreeSet<T>, right: &BTreeSet<T>) -> Fit {
    if left == right {
        Fit::Same
    } else if left.is_disjoint(right) {
        Fit::Disjoint
    } else if left.is_subset(right) {
        Fit::Narrower
    } else if right.is_subset(left) {
        Fit::Wider
    } else {
        Fit::Crossing(None)
    }
}

/// Whether some user is in a group of either side.
fn share_user(left: &BTreeSet<u32>, right: &BTreeSet<u32>, host: &HostFacts) -> bool {
    let users = |groups: &BTreeSet<u32>| -> BTreeSet<u32> {
        let listed = groups.iter().filter_map(|group| host.members.get(group));
        let primary = host
            .primary_groups
            .iter()
            .filter(|(_, group)| groups.contains(group))
            .map(|(user, _)| *user);
        listed.flatten().copied().chain(primary).collect()
    };
    !users(left).is_disjoint(&users(right))
}

fn same(a: &Draft<'_>, b: &Draft<'_>) -> Diagnostic {
    let message = if a.identity == b.identity {
        format!("identity `{}` has this selector twice", a.identity)
    } else {
        format!(
            "identities `{}` and `{}` have the same selector",
            a.identity, b.identity
        )
    };
    Diagnostic::error(message)
        .at(b.place.clone())
        .related("the other one is here", a.place.clone())
        .help("remove one of them, or make one more specific")
}

fn unclear(a: &Draft<'_>, b: &Draft<'_>, witness: Option<String>) -> Diagnostic {
    let example = match witness {
        Some(name) => format!("both match `{name}`: "),
        None => String::new(),
    };
    Diagnostic::error(format!(
        "identities `{}` and `{}` can match the same process, and neither is more specific",
        a.identity, b.identity
    ))
    .at(b.place.clone())
    .related("the other one is here", a.place.clone())
    .help(format!(
        "{example}add a key to the one that is meant then, or narrow its globs to within the other's"
    ))
}

#[cfg(test)]
mod tests {
    use super::RANKS;

    #[test]
    fn the_manual_says_the_same() {
        let manual = include_str!("../../../../README.md");
        assert!(
            manual.contains(RANKS),
            "the README has another order of ranks"
        );
    }
}
