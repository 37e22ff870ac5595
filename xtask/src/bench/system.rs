//! The system calls that are measured, as bare as they can be, and `bpf()`.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{SockaddrIn, SockaddrLike as _},
};

/// `socket()` for IPv4.
pub(super) fn socket(kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) };
    owned(fd.into())
}

/// `connect()`.
pub(super) fn connect(socket: &impl AsRawFd, peer: &SockaddrIn) -> io::Result<()> {
    // SAFETY: the address lives through the call and is as long as said.
    let result = unsafe { libc::connect(socket.as_raw_fd(), peer.as_ptr(), peer.len()) };
    done(result as isize)
}

/// `send()` on a connected socket.
pub(super) fn send(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the bytes live through the call and are as many as said.
    let result = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    done(result)
}

/// `sendto()`.
pub(super) fn send_to(socket: &impl AsRawFd, bytes: &[u8], peer: &SockaddrIn) -> io::Result<()> {
    // SAFETY: as in `send` and `connect`.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            peer.as_ptr(),
            peer.len(),
        )
    };
    done(result)
}

/// Loads a program of these instructions; `license` is not asked for by what it calls.
pub(super) fn load_program(kind: u32, attach: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: i64 = 5;
    let license = c"Dual MIT/GPL";
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(kind) | (instructions.len() as u64) << 32;
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    // `expected_attach_type` is the second word at offset 64.
    attributes[8] = u64::from(attach) << 32;
    bpf(BPF_PROG_LOAD, &attributes)
}

/// Attaches a program to a cgroup for as long as the link is open.
pub(super) fn attach_program(
    program: &impl AsRawFd,
    cgroup: &impl AsRawFd,
    attach: u32,
) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: i64 = 28;
    let mut attributes = [0_u64; 16];
    let number = |fd: i32| u64::from(fd.cast_unsigned());
    attributes[0] = number(program.as_raw_fd()) | number(cgroup.as_raw_fd()) << 32;
    attributes[1] = attach.into();
    bpf(BPF_LINK_CREATE, &attributes)
}

fn bpf(command: i64, attributes: &[u64; 16]) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is as large as said, zero beyond what is set, and what it points to lives
    // through the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(attributes),
        )
    };
    owned(fd)
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn done(result: isize) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
