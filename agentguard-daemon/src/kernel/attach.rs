//! Loading the programs and attaching each at its place.

use std::{fs::File, io, os::fd::AsFd, os::unix::fs::MetadataExt, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, Program, ProgramError, ProgramFd,
        links::{FdLink, LinkError},
    },
    sys::{BpfHelper, SyscallError, is_helper_supported},
};

use super::{
    KernelError, Placement, btf::Types, link::PinnedLink, maps, object::OBJECT, pins::Pins,
    place::FilePlace,
};

/// The program that tags sockets opened before; run on demand, not attached.
pub(super) const ENROL: &str = "enrol";

/// The program that labels processes for a new generation; run on demand, not attached.
pub(super) const RELABEL: &str = "relabel";

/// The program without which nothing is enforced.
const AUTHORITY: &str = "egress";

/// Tracepoints whose work goes on without a daemon.
const LABELLING: [&str; 3] = [
    "sched_process_exec",
    "sched_process_exit",
    "sched_process_fork",
];

/// Constants of the running kernel that the programs need.
struct Layout {
    offsets: Vec<(&'static str, u64)>,
    has_set_retval: u64,
}

impl Layout {
    fn of_running_kernel() -> Result<Self, KernelError> {
        let types = Types::of_running_kernel()?;
        let root = FilePlace::of_path(Path::new("/"))?;
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
            (
                "SOCK_STATE",
                find("sock", &["__sk_common"])? + find("sock_common", &["skc_state"])?,
            ),
            ("SOCK_CGROUP", cgroup_of_socket(&types)),
            ("TASK_TGID", find("task_struct", &["tgid"])?),
            ("TASK_LEADER", find("task_struct", &["group_leader"])?),
            ("TASK_STARTED", find("task_struct", &["start_boottime"])?),
            ("TASK_PARENT", find("task_struct", &["real_parent"])?),
            ("TASK_COMM", find("task_struct", &["comm"])?),
            ("TASK_LOGIN_UID", find("task_struct", &["loginuid"])?),
            ("TASK_SESSION_ID", find("task_struct", &["sessionid"])?),
            ("TASK_CRED", find("task_struct", &["real_cred"])?),
            ("CRED_UID", find("cred", &["uid"])?),
            ("CRED_GID", find("cred", &["gid"])?),
            ("TASK_SIGNAL", find("task_struct", &["signal"])?),
            ("SIGNAL_LIVE", find("signal_struct", &["live"])?),
            ("TASK_FS", find("task_struct", &["fs"])?),
            ("FS_PWD", find("fs_struct", &["pwd"])?),
            ("FS_ROOT", find("fs_struct", &["root"])?),
            ("TASK_NSPROXY", find("task_struct", &["nsproxy"])?),
            ("NSPROXY_MNT_NS", find("nsproxy", &["mnt_ns"])?),
            ("MNT_NS_USER_NS", find("mnt_namespace", &["user_ns"])?),
            ("USER_NS_LEVEL", find("user_namespace", &["level"])?),
            ("BINPRM_FILE", find("linux_binprm", &["file"])?),
            ("BINPRM_FILENAME", find("linux_binprm", &["filename"])?),
            ("BINPRM_INTERP", find("linux_binprm", &["interp"])?),
            ("FILE_PATH", find("file", &["f_path"])?),
            ("FILE_INODE", find("file", &["f_inode"])?),
            ("PATH_MNT", find("path", &["mnt"])?),
            ("PATH_DENTRY", find("path", &["dentry"])?),
            ("DENTRY_PARENT", find("dentry", &["d_parent"])?),
            (
                "DENTRY_NAME_LEN",
                find("dentry", &["d_name"])? + find("qstr", &["len"])?,
            ),
            (
                "DENTRY_NAME",
                find("dentry", &["d_name"])? + find("qstr", &["name"])?,
            ),
            ("DENTRY_INODE", find("dentry", &["d_inode"])?),
            ("MOUNT_MNT", find("mount", &["mnt"])?),
            ("MOUNT_PARENT", find("mount", &["mnt_parent"])?),
            ("MOUNT_POINT", find("mount", &["mnt_mountpoint"])?),
            ("VFSMOUNT_ROOT", find("vfsmount", &["mnt_root"])?),
            ("VFSMOUNT_SB", find("vfsmount", &["mnt_sb"])?),
            ("SB_DEV", find("super_block", &["s_dev"])?),
            ("INODE_NUMBER", find("inode", &["i_ino"])?),
            ("INODE_SB", find("inode", &["i_sb"])?),
            // Renamed in Linux 6.6 (commit 13bc24457850) and split in 6.11 (commit 3aa63a569c64).
            (
                "INODE_CHANGED_S",
                find("inode", &["i_ctime_sec", "__i_ctime", "i_ctime"])?,
            ),
            (
                "INODE_CHANGED_NS",
                types
                    .offset_of("inode", "i_ctime_nsec")
                    .map_or_else(|| nanoseconds_of_change(&find), Ok)?,
            ),
            ("HOST_ROOT_DEVICE", root.device.into()),
            ("HOST_ROOT_INODE", root.inode),
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

/// Where a socket has its cgroup; `NOWHERE` of the kernel crate where it has none in that form.
fn cgroup_of_socket(types: &Types) -> u64 {
    let data = types.offset_of("sock", "sk_cgrp_data");
    let cgroup = types.offset_of("sock_cgroup_data", "cgroup");
    data.zip(cgroup)
        .map_or(u64::MAX, |(data, cgroup)| data + cgroup)
}

/// Where the nanoseconds of an inode's change time are in a `timespec64`.
fn nanoseconds_of_change(
    find: &impl Fn(&str, &[&str]) -> Result<u64, KernelError>,
) -> Result<u64, KernelError> {
    Ok(find("inode", &["__i_ctime", "i_ctime"])? + find("timespec64", &["tv_nsec"])?)
}

/// Loads the object, with the maps that are pinned already.
///
/// # Errors
///
/// If the kernel lacks something or refuses a map.
pub(super) fn load(placement: &Placement, pins: &Pins) -> Result<(Ebpf, Btf), KernelError> {
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
    // The number of the file of a cgroup is its id (`kernfs_node.id`).
    let root = placement
        .cgroup_root
        .metadata()
        .map_err(|source| KernelError::File {
            path: placement.cgroup_root.clone(),
            source,
        })?;
    let attached = root.ino();
    loader.override_global("ATTACHED_CGROUP", &attached, true);
    for name in maps::PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    let ebpf = loader.load(OBJECT)?;
    Ok((ebpf, btf))
}

/// What was attached.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// Names of the programs.
    pub(super) names: Vec<String>,
    /// Names of those that were not, and why.
    pub(super) left_out: Vec<(String, KernelError)>,
}

/// Attaches every program: the cgroup programs to the cgroup root and the tracepoints that label
/// processes, all pinned; the other tracepoints for as long as the daemon lives, since nobody else reads
/// what they say.
///
/// # Errors
///
/// If a program does not load, or cannot be attached or pinned. Those attached before stay. Where the
/// placement allows less, only the authority over packets that leave has to be attached.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    btf: &Btf,
    placement: &Placement,
    pins: &Pins,
) -> Result<Attached, KernelError> {
    let path = &placement.cgroup_root;
    let root = File::open(path).map_err(|source| KernelError::File {
        path: path.clone(),
        source,
    })?;
    let mut attached = Attached::default();
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    for name in &names {
        let Some(program) = ebpf.program_mut(name) else {
            continue;
        };
        match attach(name, program, btf, &root, pins) {
            Ok(()) if name == ENROL || name == RELABEL => {}
            Ok(()) => attached.names.push(name.clone()),
            Err(error) if placement.allow_degraded && name != AUTHORITY => {
                attached.left_out.push((name.clone(), error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(attached)
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
        Program::Iter(iterator) => {
            let kind = if name == ENROL { "task_file" } else { "task" };
            return iterator.load(kind, btf).map_err(failed);
        }
        Program::BtfTracePoint(tracepoint) => {
            tracepoint.load(name, btf).map_err(failed)?;
            let id = tracepoint.attach().map_err(failed)?;
            if !LABELLING.contains(&name) {
                return Ok(());
            }
            let link = tracepoint.take_link(id).map_err(failed)?;
            return pin(name, link.into(), pins);
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
    let link = |what| {
        let name = name.to_owned();
        move |source| KernelError::Link { name, what, source }
    };
    let pinned = PinnedLink::open(&pins.link(name)).map_err(link("opening its pin"))?;
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
    let fresh = attach_to_cgroup(program, root).map_err(|source| match &source {
        ProgramError::SyscallError(SyscallError { io_error, .. })
            if io_error.raw_os_error() == Some(nix::libc::EPERM) =>
        {
            KernelError::Occupied { name: name.into() }
        }
        _ => failed(source),
    })?;
    pin(name, fresh, pins)
}

/// Pins the new link of program `name`; only now, that it is in force, does an old one go.
fn pin(name: &str, fresh: FdLink, pins: &Pins) -> Result<(), KernelError> {
    let path = pins.link(name);
    let link = |what| {
        let name = name.to_owned();
        move |source| KernelError::Link { name, what, source }
    };
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(link("removing its old pin")(error)),
    }
    fresh
        .pin(&path)
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
