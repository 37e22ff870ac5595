//! Containers by the names that engines give their cgroups.

use std::collections::BTreeMap;

use super::{Container, Runtime, components, is_slice, user_subtree};

/// Hexadecimal digits of the id of a container.
const ID_DIGITS: usize = 64;

/// The container of the cgroup at `path`, if the path proves that there is one.
pub(super) fn of_path(path: &str) -> Option<Container> {
    let (above, name) = path.rsplit_once('/')?;
    let (runtime, id) = named(above, name)?;
    let rootless_of = if components(above).next() == Some("user.slice") {
        Some(user_subtree(above)?.0)
    } else {
        is_of_root(above).then_some(None)?
    };
    Some(unnamed(runtime, id, rootless_of))
}

/// The container that the cgroup at `path` would be of if its engine, which alone can tell, says so:
/// those of [`of_path`] and those in the subtree of a service of the system, or of a parent that the
/// path does not tell from something else.
pub(super) fn candidate(path: &str) -> Option<Container> {
    if components(path).next() == Some("user.slice") {
        return None;
    }
    let (above, name) = path.rsplit_once('/')?;
    let (runtime, id) =
        named(above, name).or_else(|| is_id(name).then_some((Runtime::Docker, name)))?;
    Some(unnamed(runtime, id, None))
}

fn unnamed(runtime: Runtime, id: &str, rootless_of: Option<u32>) -> Container {
    Container {
        runtime,
        id: id.to_owned(),
        name: None,
        image: None,
        labels: BTreeMap::new(),
        rootless_of,
    }
}

/// The engine and id in the name of a cgroup below `above`, whoever made it.
fn named<'a>(above: &str, name: &'a str) -> Option<(Runtime, &'a str)> {
    const PREFIXES: [(&str, Runtime); 6] = [
        ("docker-", Runtime::Docker),
        ("libpod-payload-", Runtime::Podman),
        ("libpod-", Runtime::Podman),
        ("cri-containerd-", Runtime::Containerd),
        ("nerdctl-", Runtime::Containerd),
        ("crio-", Runtime::CriO),
    ];
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    let prefixed = PREFIXES.iter().find_map(|&(prefix, runtime)| {
        let id = stem.strip_prefix(prefix)?;
        is_id(id).then_some((runtime, id))
    });
    prefixed.or_else(|| {
        // Without systemd, the name is the id alone. The name of the parent tells whose it is, and a
        // pod of podman, which is named so too, has another parent.
        let runtime = match components(above).last()? {
            "docker" => Runtime::Docker,
            _ if components(above).any(|component| component == "kubepods") => Runtime::Containerd,
            _ => return None,
        };
        is_id(name).then_some((runtime, name))
    })
}

fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == ID_DIGITS && text.bytes().all(is_digit)
}

/// Whether nothing in `above` is a subtree that somebody was given: a unit that is no slice, or a
/// container.
fn is_of_root(above: &str) -> bool {
    let is_given = |component: &str| {
        [".service", ".scope", ".socket", ".mount", ".swap"]
            .iter()
            .any(|suffix| component.ends_with(suffix))
    };
    let mut parent = String::new();
    for component in components(above) {
        if !is_slice(component) && (is_given(component) || named(&parent, component).is_some()) {
            return false;
        }
        parent = format!("{parent}/{component}");
    }
    true
}
