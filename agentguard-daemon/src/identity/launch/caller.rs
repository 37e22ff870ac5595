//! Who is at the other end of a unix socket.

use std::{
    fs,
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt},
};

/// Groups that a process may have (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// Who asks, as the kernel remembers who connected, and what `/proc` tells of that process.
#[derive(Debug)]
pub struct Caller {
    /// The process that connected.
    pub pid: u32,
    /// Its effective user then.
    pub user: u32,
    /// Its effective and its supplementary groups then.
    pub groups: Vec<u32>,
    /// Who logged in, if somebody did.
    pub login_user: Option<u32>,
    /// The name of the process.
    pub comm: Vec<u8>,
    /// When it started, in ticks of the boot clock.
    start: u64,
    /// The process, where the kernel is 6.5 or later.
    handle: Option<OwnedFd>,
}

impl Caller {
    /// Who connected at the other end of `socket`.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let peer = getsockopt(socket, sockopt::PeerCredentials)?;
        let handle = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(handle) => Some(handle),
            // Before 6.5 there is none: start times must do.
            Err(Errno::ENOPROTOOPT) => None,
            Err(error) => return Err(error.into()),
        };
        let mut groups = peer_groups(socket)?;
        groups.push(peer.gid());
        let pid = u32::try_from(peer.pid()).map_err(io::Error::other)?;
        let process = format!("/proc/{pid}");
        let login_user = fs::read_to_string(format!("{process}/loginuid"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|&user| user != u32::MAX);
        let mut comm = fs::read(format!("{process}/comm")).unwrap_or_default();
        comm.pop_if(|last| *last == b'\n');
        let caller = Self {
            pid,
            user: peer.uid(),
            groups,
            login_user,
            comm,
            start: start_ticks(pid)?,
            handle,
        };
        // What was read is of the process that connected, and not of the next with its number.
        if !caller.lives() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(caller)
    }

    /// Whether the process still runs.
    #[must_use]
    pub fn lives(&self) -> bool {
        let is_over = self.handle.as_ref().is_some_and(|handle| {
            let mut handle = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
            poll(&mut handle, PollTimeout::ZERO) != Ok(0)
        });
        !is_over && start_ticks(self.pid).is_ok_and(|start| start == self.start)
    }
}

fn start_ticks(pid: u32) -> io::Result<u64> {
    let mut stat = Vec::new();
    fs::File::open(format!("/proc/{pid}/stat"))?.read_to_end(&mut stat)?;
    parse_start(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Field 22; the name before it is in parentheses and may hold anything, parentheses too.
fn parse_start(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 2;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// The supplementary groups of who connected.
pub fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let size = groups.len() * size_of::<libc::gid_t>();
        let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes to the buffer, which has as many, and
        // the number of those that it wrote to `length`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        match Errno::result(result) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel says how many there are.
            Err(Errno::ERANGE) if (groups.len() + 1..=MAX_GROUPS).contains(&count) => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use nix::unistd::{getegid, geteuid, getgroups};

    use super::*;

    #[test]
    fn the_other_end_is_this_process() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let caller = Caller::of(&socket).unwrap();
        assert_eq!(caller.pid, std::process::id());
        assert_eq!(caller.user, geteuid().as_raw());
        let mut expected: Vec<u32> = getgroups().unwrap().iter().map(|id| id.as_raw()).collect();
        expected.push(getegid().as_raw());
        assert_eq!(caller.groups, expected);
        assert!(caller.lives());
    }

    #[test]
    fn a_process_that_started_at_another_time_is_another() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let mut caller = Caller::of(&socket).unwrap();
        caller.start += 1;
        assert!(!caller.lives());
    }

    #[test]
    fn a_name_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=52).map(|number: u32| number.to_string()).collect();
        let stat = format!("9 (a) R 1 (x) S {}", fields.join(" "));
        assert_eq!(parse_start(stat.as_bytes()), Some(22));
        assert_eq!(parse_start(b"9"), None);
    }
}
