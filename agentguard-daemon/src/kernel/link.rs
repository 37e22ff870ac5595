//! Links of programs to a cgroup, and their pins: enforcement that outlives the daemon.
//!
//! aya can pin a link but not give it another program, except for XDP and TCX, nor end it at once; the
//! system calls for that are here.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

// Commands of bpf(2), `enum bpf_cmd` in `include/uapi/linux/bpf.h`.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// A link that is pinned.
#[derive(Debug)]
pub(super) struct PinnedLink(OwnedFd);

#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link: RawFd,
    program: RawFd,
    flags: u32,
    old_program: RawFd,
}

#[repr(C)]
struct LinkDetach {
    link: RawFd,
}

#[repr(C)]
struct GetInfo {
    fd: RawFd,
    length: u32,
    info: u64,
}

/// The head of `struct bpf_link_info`, as it is for cgroup links.
#[repr(C)]
#[derive(Default)]
struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    padding: u32,
    cgroup_id: u64,
    attach_type: u32,
    reserved: u32,
}

impl PinnedLink {
    /// Opens the link pinned at `path`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the pin is there and cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut request = ObjGet {
            path: path.as_ptr() as u64,
            fd: 0,
            flags: 0,
        };
        match bpf(BPF_OBJ_GET, &mut request) {
            Ok(fd) => {
                // SAFETY: the kernel just made this descriptor for us alone.
                Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd) })))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Id of the cgroup that it is attached to; 0 once it was detached.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub(super) fn cgroup_id(&self) -> io::Result<u64> {
        let mut info = CgroupLinkInfo::default();
        let length = u32::try_from(size_of::<CgroupLinkInfo>()).map_err(io::Error::other)?;
        let mut request = GetInfo {
            fd: self.0.as_raw_fd(),
            length,
            info: (&raw mut info) as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
        Ok(info.cgroup_id)
    }

    /// Puts another program in place of the one it runs, in one step: no packet finds neither.
    ///
    /// # Minimum kernel version
    ///
    /// 5.7.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; the former program then goes on.
    pub(super) fn replace_program(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut request = LinkUpdate {
            link: self.0.as_raw_fd(),
            program: program.as_raw_fd(),
            flags: 0,
            old_program: 0,
        };
        bpf(BPF_LINK_UPDATE, &mut request).map(|_| ())
    }

    /// Ends it before the call returns. The kernel frees a link whose last pin is gone some time
    /// later, and its program runs until then.
    ///
    /// # Minimum kernel version
    ///
    /// 5.9.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub(super) fn detach(&self) -> io::Result<()> {
        let mut request = LinkDetach {
            link: self.0.as_raw_fd(),
        };
        match bpf(BPF_LINK_DETACH, &mut request) {
            // Links of tracepoints cannot be taken off: they end with their last holder. What they
            // label is of no use to programs that are off already.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            detached => detached.map(|_| ()),
        }
    }
}

fn bpf<T>(command: libc::c_int, request: &mut T) -> io::Result<RawFd> {
    // SAFETY: `request` is the head of `union bpf_attr` for `command`, of the size that is given; what
    // it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, request, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
