//! Who a process is, said a second time: random selectors as text with a model beside it, and a plain
//! scan over the model. It shares no code with the parser, the compiler or `select`.

use std::{cell::OnceCell, collections::BTreeSet, fmt::Write as _};

use super::oracle::Dice;

/// A policy.
#[derive(Debug)]
pub(crate) struct Model {
    /// As agentguard reads it.
    pub(crate) text: String,
    /// Its selectors.
    selectors: Vec<Selector>,
}

#[derive(Clone, Debug)]
struct Selector {
    identity: String,
    unit: Option<&'static str>,
    slice: Option<&'static str>,
    cgroup: Option<&'static str>,
    users: Option<Vec<u32>>,
    login: Option<bool>,
    executable: Option<&'static str>,
    requires: Requires,
    /// The processes that it matches, by number.
    reach: OnceCell<BTreeSet<usize>>,
}

#[derive(Clone, Debug, Default)]
struct Requires {
    users: Option<Vec<u32>>,
    login: Option<bool>,
    slice: Option<&'static str>,
    parent: Option<&'static str>,
}

/// A process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) cgroup: &'static str,
    pub(crate) user: u32,
    pub(crate) login: bool,
    pub(crate) on_host: bool,
    pub(crate) executable: &'static str,
    pub(crate) parent: &'static str,
}

const UNITS: [&str; 6] = [
    "a.service",
    "b.service",
    "*.service",
    "a*",
    "x.slice",
    "?.scope",
];
const SLICES: [&str; 4] = ["x.slice", "x*.slice", "*.slice", "agents.slice"];
const CGROUPS: [&str; 6] = [
    "/x.slice",
    "/x.slice/*",
    "/x.slice/**",
    "/jobs/**",
    "/jobs/a",
    "/**",
];
const EXECUTABLES: [&str; 5] = ["/bin/a", "/bin/*", "/bin/{a,b}", "/**/a", "/opt/**"];
const PATHS: [&str; 6] = ["/bin/a", "/bin/b", "/bin/c", "/opt/a", "/opt/x/y", "/a"];
const PLACES: [&str; 13] = [
    "/",
    "/x.slice",
    "/x.slice/a.service",
    "/x.slice/a.service/jobs",
    "/x.slice/x-y.slice",
    "/x.slice/x-y.slice/b.service",
    "/y.slice/c.scope",
    "/jobs",
    "/jobs/a",
    "/jobs/a/b",
    "/agents.slice",
    "/agents.slice/a.service",
    "/system.slice/c.service",
];

/// A random policy.
pub(crate) fn model(dice: &mut Dice) -> Model {
    let mut model = Model {
        text: String::new(),
        selectors: Vec::new(),
    };
    for index in 0..1 + dice.below(4) {
        let identity = format!("i{index}");
        writeln!(model.text, "[identities.{identity}]\nclass = \"ci\"")
            .expect("a string takes text");
        let mut requires = Requires::default();
        let mut lines = Vec::new();
        if dice.one_in(3) {
            requires.users = maybe(dice, 3).then(|| users(dice));
            requires.login = maybe(dice, 3).then(|| dice.one_in(2));
            requires.slice = maybe(dice, 3).then(|| dice.pick(&SLICES));
            requires.parent = maybe(dice, 3).then(|| dice.pick(&EXECUTABLES));
            lines.extend(
                requires
                    .users
                    .as_ref()
                    .map(|users| format!("user = {users:?}")),
            );
            lines.extend(requires.login.map(|login| format!("login = {login}")));
            lines.extend(requires.slice.map(|slice| format!("slice = {slice:?}")));
            lines.extend(
                requires
                    .parent
                    .map(|glob| format!("parent-executable = {glob:?}")),
            );
        }
        if !lines.is_empty() {
            writeln!(model.text, "requires = {{ {} }}", lines.join(", "))
                .expect("a string takes text");
        }
        for _ in 0..1 + dice.below(2) {
            let selector = selector(dice, &identity, &requires);
            writeln!(model.text, "[[identities.{identity}.match]]").expect("a string takes text");
            write_selector(&mut model.text, &selector);
            model.selectors.push(selector);
        }
    }
    model
}

fn maybe(dice: &mut Dice, of: usize) -> bool {
    dice.one_in(of)
}

fn users(dice: &mut Dice) -> Vec<u32> {
    let first = u32::try_from(dice.below(3)).expect("a small number");
    if dice.one_in(2) {
        vec![first]
    } else {
        vec![first, first + 1]
    }
}

fn selector(dice: &mut Dice, identity: &str, requires: &Requires) -> Selector {
    loop {
        let selector = Selector {
            identity: identity.to_owned(),
            unit: maybe(dice, 3).then(|| dice.pick(&UNITS)),
            // A slice in both is one key to the compiler, which may call that a contradiction.
            slice: (maybe(dice, 4) && requires.slice.is_none()).then(|| dice.pick(&SLICES)),
            cgroup: maybe(dice, 3).then(|| dice.pick(&CGROUPS)),
            users: (maybe(dice, 3) && requires.users.is_none()).then(|| users(dice)),
            login: maybe(dice, 4).then(|| dice.one_in(2)),
            executable: maybe(dice, 3).then(|| dice.pick(&EXECUTABLES)),
            requires: requires.clone(),
            reach: OnceCell::new(),
        };
        if selector.keys() > requires.keys() {
            return selector;
        }
    }
}

fn write_selector(text: &mut String, selector: &Selector) {
    for (key, glob) in [
        ("systemd-unit", selector.unit),
        ("slice", selector.slice),
        ("cgroup", selector.cgroup),
        ("executable", selector.executable),
    ] {
        if let Some(glob) = glob {
            writeln!(text, "{key} = {glob:?}").expect("a string takes text");
        }
    }
    if let Some(users) = &selector.users {
        writeln!(text, "user = {users:?}").expect("a string takes text");
    }
    if let Some(login) = selector.login {
        writeln!(text, "login = {login}").expect("a string takes text");
    }
}

/// A random process.
pub(crate) fn probe(dice: &mut Dice) -> Probe {
    Probe {
        cgroup: dice.pick(&PLACES),
        user: u32::try_from(dice.below(4)).expect("a small number"),
        login: dice.one_in(2),
        on_host: !dice.one_in(4),
        executable: dice.pick(&PATHS),
        parent: dice.pick(&PATHS),
    }
}

/// Every process that there can be.
fn all_probes() -> impl Iterator<Item = Probe> {
    PLACES.into_iter().flat_map(|cgroup| {
        (0..4).flat_map(move |user| {
            [false, true].into_iter().flat_map(move |login| {
                PATHS.into_iter().flat_map(move |executable| {
                    PATHS.into_iter().map(move |parent| Probe {
                        cgroup,
                        user,
                        login,
                        on_host: true,
                        executable,
                        parent,
                    })
                })
            })
        })
    })
}

impl Requires {
    fn keys(&self) -> usize {
        usize::from(self.users.is_some())
            + usize::from(self.login.is_some())
            + usize::from(self.slice.is_some())
            + usize::from(self.parent.is_some())
    }
}

impl Selector {
    fn keys(&self) -> usize {
        usize::from(self.unit.is_some())
            + usize::from(self.slice.is_some())
            + usize::from(self.cgroup.is_some())
            + usize::from(self.users.is_some())
            + usize::from(self.login.is_some())
            + usize::from(self.executable.is_some())
            + self.requires.keys()
    }

    fn rank(&self) -> u32 {
        if self.executable.is_some() {
            4
        } else if self.unit.is_some() || self.slice.is_some() {
            3
        } else if self.cgroup.is_some() {
            2
        } else {
            1
        }
    }

    /// Whom it names: a user counts before a login.
    fn names(&self) -> (bool, bool) {
        (
            self.users.is_some() || self.requires.users.is_some(),
            self.login.is_some() || self.requires.login.is_some(),
        )
    }

    /// How deep the cgroup is that it matches, if it matches the process.
    fn depth(&self, probe: &Probe) -> Option<usize> {
        let holds = |users: &Option<Vec<u32>>, login: Option<bool>| {
            users
                .as_ref()
                .is_none_or(|users| users.contains(&probe.user))
                && login.is_none_or(|login| login == probe.login)
        };
        let chain = chain(probe.cgroup);
        let requires = &self.requires;
        let required = holds(&requires.users, requires.login)
            && requires
                .slice
                .is_none_or(|glob| in_slice(probe.cgroup, glob))
            && requires.parent.is_none_or(|glob| fits(glob, probe.parent));
        if !required || !holds(&self.users, self.login) {
            return None;
        }
        if let Some(glob) = self.executable {
            let above = |matches: &dyn Fn(&str) -> bool| chain.iter().any(|path| matches(path));
            let all = probe.on_host
                && fits(glob, probe.executable)
                && self
                    .unit
                    .is_none_or(|glob| above(&|path| is_unit(path, glob)))
                && self.slice.is_none_or(|glob| in_slice(probe.cgroup, glob))
                && self
                    .cgroup
                    .is_none_or(|glob| above(&|path| fits(glob, path)));
            return all.then_some(0);
        }
        if self.unit.is_none() && self.slice.is_none() && self.cgroup.is_none() {
            return Some(0);
        }
        let agents = chain.iter().position(|path| path == "/agents.slice");
        let depth = chain.iter().rposition(|path| {
            let by_slice = self.slice.is_none_or(|glob| {
                if self.unit.is_none() && self.cgroup.is_none() {
                    is_unit(path, glob) && path.ends_with(".slice")
                } else {
                    in_slice(path, glob)
                }
            });
            by_slice
                && self.unit.is_none_or(|glob| is_unit(path, glob))
                && self.cgroup.is_none_or(|glob| fits(glob, path))
        })?;
        (depth >= agents.unwrap_or(0)).then_some(depth)
    }

    /// Whether it is before `other` where both match, without regard to how wide they are.
    fn weight(&self, depth: usize) -> (u32, usize, usize, (bool, bool)) {
        (self.rank(), depth, self.keys(), self.names())
    }
}

/// The identities that the process may be found to be: more than one only where one is within another
/// for every process that there is here.
pub(crate) fn judge<'a>(model: &'a Model, probe: &Probe) -> Vec<&'a str> {
    let matching: Vec<(&Selector, usize)> = model
        .selectors
        .iter()
        .filter_map(|selector| Some((selector, selector.depth(probe)?)))
        .collect();
    let best = matching
        .iter()
        .map(|(selector, depth)| selector.weight(*depth))
        .max();
    let Some(best) = best else {
        return vec![built_in(probe)];
    };
    let tied: Vec<&Selector> = matching
        .iter()
        .filter(|(selector, depth)| selector.weight(*depth) == best)
        .map(|(selector, _)| *selector)
        .collect();
    let narrowest = tied.iter().filter(|selector| {
        let mine = reach(selector);
        tied.iter()
            .all(|other| other.identity == selector.identity || mine.is_subset(reach(other)))
    });
    narrowest
        .map(|selector| selector.identity.as_str())
        .collect()
}

fn reach(selector: &Selector) -> &BTreeSet<usize> {
    selector.reach.get_or_init(|| {
        all_probes()
            .enumerate()
            .filter(|(_, probe)| selector.depth(probe).is_some())
            .map(|(number, _)| number)
            .collect()
    })
}

/// Whether two selectors of the same weight could match one process, for all that is known here.
pub(crate) fn may_contradict(model: &Model) -> bool {
    model.selectors.iter().enumerate().any(|(index, a)| {
        model
            .selectors
            .iter()
            .skip(index + 1)
            .any(|b| a.weight(0) == b.weight(0))
    })
}

fn built_in(probe: &Probe) -> &'static str {
    if probe.cgroup.starts_with("/agents.slice") {
        "unknown-agent"
    } else if probe.cgroup.starts_with("/system.slice") {
        "service"
    } else {
        "unknown"
    }
}

/// The paths from the root on.
fn chain(path: &str) -> Vec<String> {
    let mut chain = vec!["/".to_owned()];
    let mut whole = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        whole.push('/');
        whole.push_str(part);
        chain.push(whole.clone());
    }
    chain
}

fn is_unit(path: &str, glob: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let Some((last, above)) = parts.split_last() else {
        return false;
    };
    let kinds = [".service", ".slice", ".scope"];
    above.iter().all(|part| part.ends_with(".slice"))
        && kinds.iter().any(|kind| last.ends_with(kind))
        && fits(glob, last)
}

fn in_slice(path: &str, glob: &str) -> bool {
    path.split('/')
        .filter(|part| !part.is_empty())
        .take_while(|part| part.ends_with(".slice"))
        .any(|part| fits(glob, part))
}

/// A glob of `*`, `**`, `?` and one level of braces, tried in every way.
fn fits(glob: &str, text: &str) -> bool {
    if let (Some(open), Some(close)) = (glob.find('{'), glob.find('}')) {
        return glob[open + 1..close].split(',').any(|word| {
            fits(
                &format!("{}{word}{}", &glob[..open], &glob[close + 1..]),
                text,
            )
        });
    }
    if let Some(rest) = glob.strip_prefix("/**/") {
        // Any number of directories, none included.
        return text
            .match_indices('/')
            .any(|(index, _)| fits(rest, &text[index + 1..]));
    }
    if glob == "/**" {
        return text.starts_with('/');
    }
    let Some(first) = glob.chars().next() else {
        return text.is_empty();
    };
    match first {
        '*' => text
            .char_indices()
            .map(|(index, _)| index)
            .chain([text.len()])
            .take_while(|&index| !text[..index].contains('/'))
            .any(|index| fits(&glob[1..], &text[index..])),
        '?' => text
            .chars()
            .next()
            .is_some_and(|c| c != '/' && fits(&glob[1..], &text[1..])),
        _ => text.starts_with(first) && fits(&glob[1..], &text[1..]),
    }
}
