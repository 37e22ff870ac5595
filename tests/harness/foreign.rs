//! A program of somebody else at a hook that agentguard wants.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

use crate::cgroup::Cgroup;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR` and `BPF_CGROUP_INET4_CONNECT`.
const CGROUP_SOCK_ADDR: u32 = 18;
const INET4_CONNECT: u32 = 10;

/// `enum bpf_cmd`.
const PROG_LOAD: i64 = 5;
const PROG_ATTACH: i64 = 8;
const PROG_DETACH: i64 = 9;

/// `r0 = 1; exit`, as `struct bpf_insn` in words.
const PASS: [u64; 2] = [0x1_0000_00b7, 0x95];

/// A program that lets every IPv4 `connect` pass and lets nobody else attach one, neither to its cgroup
/// nor below. Dropping it takes it away.
#[derive(Debug)]
pub struct Exclusive {
    program: OwnedFd,
    cgroup: File,
}

impl Exclusive {
    /// Attaches it.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[must_use]
    pub fn connect4(cgroup: &Cgroup) -> Self {
        let license = c"GPL";
        let mut load = [0_u64; 16];
        load[0] = u64::from(CGROUP_SOCK_ADDR) | (PASS.len() as u64) << 32;
        load[1] = PASS.as_ptr() as u64;
        load[2] = license.as_ptr() as u64;
        // `expected_attach_type` is the second word at offset 64.
        load[8] = u64::from(INET4_CONNECT) << 32;
        let fd = bpf(PROG_LOAD, &load).expect("load a program");
        // SAFETY: the kernel has just made it, for nobody else.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        let cgroup = File::open(cgroup.path()).expect("open a cgroup");
        let exclusive = Self { program, cgroup };
        // No flags: neither `BPF_F_ALLOW_OVERRIDE` nor `BPF_F_ALLOW_MULTI`.
        bpf(PROG_ATTACH, &exclusive.attributes()).expect("attach a program");
        exclusive
    }

    fn attributes(&self) -> [u64; 16] {
        let number = |fd: i32| u64::from(fd.cast_unsigned());
        let mut attributes = [0; 16];
        attributes[0] = number(self.cgroup.as_raw_fd()) | number(self.program.as_raw_fd()) << 32;
        attributes[1] = INET4_CONNECT.into();
        attributes
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        // It fails only where the cgroup has gone, and the program with it.
        drop(bpf(PROG_DETACH, &self.attributes()));
    }
}

fn bpf(command: i64, attributes: &[u64; 16]) -> io::Result<i32> {
    // SAFETY: `attributes` is as large as said, zero beyond what is set, and what it points to lives
    // through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(attributes),
        )
    };
    i32::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}
