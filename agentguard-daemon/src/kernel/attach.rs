//! Loading the programs and attaching each at its place.

use std::{fs::File, io, os::fd::AsFd, os::unix::fs::MetadataExt, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, Program, ProgramError, ProgramFd,
        links::{FdLink, LinkError},
    },
    sys::{BpfHelper, is_helper_supported},
};

use super::{KernelError, btf::Types, link::PinnedLink, maps, object::OBJECT, pins::Pins};

/// The program that tags sockets opened before; run on demand, not attached.
pub(super) const ENROL: &str = "enrol";

/// Constants of the running kernel that the programs need.
struct Layout {
    offsets: Vec<(&'static str, u64)>,
    has_set_retval: u64,
}

impl Layout {
    fn of_running_kernel() -> Result<Self, KernelError> {
        let types = Types::of_running_kernel()?;
        let find = |structure: &str, members: &[&str]| {
            members
                .iter()
                .find_map(|member| types.offset_of(structure, member))
                .ok_or_else(|| KernelError::Unsupported {
                    what: format!("`{structure}.{}` in its BTF", members[0]),
                })
        };
        let offsets = vec![
            ("CGROUP_KN", find("cgroup", &["kn"])?),
            ("CGROUP_ROOT", find("cgroup", &["root"])?),
            ("ROOT_HIERARCHY_ID", find("cgroup_root", &["hierarchy_id"])?),
            ("KN_ID", find("kernfs_node", &["id"])?),
            // Renamed in Linux 6.15 (commit 633488947ef6).
            ("KN_PARENT", find("kernfs_node", &["parent", "__parent"])?),
            ("TASK_CGROUPS", find("task_struct", &["cgroups"])?),
            ("CSS_SET_DFL_CGRP", find("css_set", &["dfl_cgrp"])?),
            ("SOCKET_SK", find("socket", &["sk"])?),
            (
                "SOCK_FAMILY",
                find("sock", &["__sk_common"])? + find("sock_common", &["skc_family"])?,
            ),
        ];
        let has_set_retval = is_helper_supported(
            aya::programs::ProgramType::CgroupSock,
            BpfHelper::BPF_FUNC_set_retval,
        )
        .is_ok_and(|supported| supported);
        Ok(Self {
            offsets,
            has_set_retval: has_set_retval.into(),
        })
    }
}

/// Loads the object, with the maps that are pinned already.
///
/// # Errors
///
/// If the kernel lacks something or refuses a map.
pub(super) fn load(pins: &Pins) -> Result<(Ebpf, Btf), KernelError> {
    if OBJECT.is_empty() {
        return Err(KernelError::NoObject);
    }
    let btf = Btf::from_sys_fs().map_err(|error| KernelError::Unsupported {
        what: format!("BTF: {error}"),
    })?;
    let layout = Layout::of_running_kernel()?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf));
    for (name, offset) in &layout.offsets {
        loader.override_global(name, offset, true);
    }
    loader.override_global("HAS_SET_RETVAL", &layout.has_set_retval, true);
    for name in maps::PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    let ebpf = loader.load(OBJECT)?;
    Ok((ebpf, btf))
}

/// Attaches every program: the cgroup programs to `cgroup_root`, pinned; the tracepoints for as long
/// as the daemon lives, since nobody else reads what they say. Returns the names of the attached.
///
/// # Errors
///
/// If a program does not load, or cannot be attached or pinned. Those attached before stay.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    btf: &Btf,
    cgroup_root: &Path,
    pins: &Pins,
) -> Result<Vec<String>, KernelError> {
    let root = File::open(cgroup_root).map_err(|source| KernelError::File {
        path: cgroup_root.into(),
        source,
    })?;
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    for name in &names {
        let Some(program) = ebpf.program_mut(name) else {
            continue;
        };
        attach(name, program, btf, &root, pins)?;
    }
    names.retain(|name| name != ENROL);
    Ok(names)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the object holds five of aya's many program types"
)]
fn attach(
    name: &str,
    program: &mut Program,
    btf: &Btf,
    root: &File,
    pins: &Pins,
) -> Result<(), KernelError> {
    let failed = |source| KernelError::Program {
        name: name.into(),
        source,
    };
    match program {
        Program::Iter(iterator) => return iterator.load("task_file", btf).map_err(failed),
        Program::BtfTracePoint(tracepoint) => {
            tracepoint.load(name, btf).map_err(failed)?;
            return tracepoint.attach().map(|_link| ()).map_err(failed);
        }
        Program::CgroupSockAddr(program) => program.load().map_err(failed)?,
        Program::CgroupSock(program) => program.load().map_err(failed)?,
        Program::CgroupSkb(program) => program.load().map_err(failed)?,
        Program::SockOps(program) => program.load().map_err(failed)?,
        other => {
            return Err(KernelError::Unsupported {
                what: format!("a program of type {:?} (`{name}`)", other.prog_type()),
            });
        }
    }
    let pin = pins.link(name);
    let link = |what| {
        let name = name.to_owned();
        move |source| KernelError::Link { name, what, source }
    };
    let pinned = PinnedLink::open(&pin).map_err(link("opening its pin"))?;
    let here = root
        .metadata()
        .map_err(link("reading the cgroup root"))?
        .ino();
    if let Some(pinned) = &pinned
        && pinned.cgroup_id().map_err(link("reading it"))? == here
    {
        let program: &ProgramFd = program.fd().map_err(failed)?;
        return pinned
            .replace_program(program.as_fd())
            .map_err(link("replacing its program"));
    }
    let fresh = attach_to_cgroup(program, root).map_err(failed)?;
    if pinned.is_some() {
        // The new link is in force; only now does the old one go.
        std::fs::remove_file(&pin).map_err(link("removing its old pin"))?;
    }
    fresh
        .pin(&pin)
        .map(|_pinned| ())
        .map_err(io::Error::other)
        .map_err(link("pinning it"))
}

/// Links in this mode still run beside those of others: a cgroup link is always "multi".
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the object holds four program types that attach to a cgroup"
)]
fn attach_to_cgroup(program: &mut Program, root: &File) -> Result<FdLink, ProgramError> {
    let mode = CgroupAttachMode::Single;
    let link: Result<FdLink, LinkError> = match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(root, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::CgroupSock(program) => {
            let id = program.attach(root, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::CgroupSkb(program) => {
            let kind = program
                .expected_attach_type()
                .ok_or(ProgramError::UnexpectedProgramType)?;
            let id = program.attach(root, kind, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::SockOps(program) => {
            let id = program.attach(root, mode)?;
            program.take_link(id)?.try_into()
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    link.map_err(|_error| ProgramError::UnexpectedProgramType)
}
