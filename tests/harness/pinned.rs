//! A map of the kernel, by its pin: what is in it, whatever the daemon believes.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use crate::daemon::Daemon;

/// Commands of `bpf(2)` (`include/uapi/linux/bpf.h`).
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET: libc::c_long = 7;

/// A map whose keys have `KEY` bytes.
#[derive(Debug)]
pub struct PinnedMap<const KEY: usize>(OwnedFd);

/// Arguments of `BPF_OBJ_GET`.
#[repr(C)]
struct Get {
    path: u64,
    unused: [u32; 4],
}

/// Arguments of `BPF_MAP_GET_NEXT_KEY`.
#[repr(C)]
struct NextKey {
    map: u32,
    padding: u32,
    key: u64,
    next: u64,
    flags: u64,
}

impl<const KEY: usize> PinnedMap<KEY> {
    /// Opens the map that `daemon` has pinned as `name`.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn open(daemon: &Daemon, name: &str) -> Self {
        daemon.mounts().among(|| {
            let versions = fs::read_dir(daemon.bpffs()).expect("list the pins");
            let version = versions.flatten().next().expect("pins of one version");
            get(&version.path().join("maps").join(name))
                .map(Self)
                .unwrap_or_else(|error| panic!("open the map {name}: {error}"))
        })
    }

    /// Its keys. If it changes meanwhile, one that comes or goes may be among them or not.
    ///
    /// # Panics
    ///
    /// If the kernel refuses to read it.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<[u8; KEY]> {
        let mut keys = BTreeSet::new();
        let mut last = None;
        while let Some(key) = self.next(last.as_ref()) {
            keys.insert(key);
            last = Some(key);
        }
        keys
    }

    fn next(&self, last: Option<&[u8; KEY]>) -> Option<[u8; KEY]> {
        let mut next = [0; KEY];
        let arguments = NextKey {
            map: self.0.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: last.map_or(0, |key| key.as_ptr() as u64),
            next: next.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: both keys are live and as long as the map's keys are.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &arguments) } {
            Ok(_) => Some(next),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("read a map: {error}"),
        }
    }
}

fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let arguments = Get {
        path: path.as_ptr() as u64,
        unused: [0; 4],
    };
    // SAFETY: the path is live and ends with a NUL; the descriptor is new.
    unsafe { bpf(BPF_OBJ_GET, &arguments).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// # Safety
///
/// As the command wants it of its arguments.
unsafe fn bpf<T>(command: libc::c_long, arguments: &T) -> io::Result<i32> {
    let pointer = std::ptr::from_ref(arguments);
    // SAFETY: the pointer is to that many bytes; what they point to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    crate::socket::check(i32::try_from(result).map_err(io::Error::other)?)
}
