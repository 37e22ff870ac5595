//! Who asks: a user and one group besides.

use std::io;

use crate::socket::check;

/// A user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The number, of its own group too.
    pub uid: u32,
    /// A supplementary group.
    pub group: Option<u32>,
}

impl User {
    /// Makes the calling thread, and no other, this user.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn become_it(&self) -> io::Result<()> {
        let groups = self.group.as_slice();
        // SAFETY: the pointer is to that many groups; the others take numbers. The library's
        // functions would change all threads.
        unsafe {
            for result in [
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                libc::syscall(libc::SYS_setresgid, self.uid, self.uid, self.uid),
                libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid),
            ] {
                check(libc::c_int::try_from(result).map_err(io::Error::other)?)?;
            }
        }
        Ok(())
    }
}
