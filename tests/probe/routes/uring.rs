//! Socket calls that reach the kernel through a ring.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use agentguard_tests::probe::Spec;
use io_uring::{IoUring, opcode, squeue::Entry, types};
use socket2::{Domain, SockAddr, Socket, Type};

use super::tcp;
use crate::failure::{Failure, Step};

const POLL_IDLE_MS: u32 = 100;

pub(super) fn connect(spec: &Spec) -> Result<(), Failure> {
    let mut ring = IoUring::new(4).step("io_uring_setup")?;
    let socket = tcp::open(Domain::for_address(spec.to))?;
    let to = SockAddr::from(spec.to);
    let fd = types::Fd(socket.as_raw_fd());
    submit(
        &mut ring,
        &opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build(),
    )
    .step("connect")?;
    socket.send(spec.marker.as_bytes()).step("send").map(drop)
}

pub(super) fn sendmsg(spec: &Spec) -> Result<(), Failure> {
    let mut ring = IoUring::new(4).step("io_uring_setup")?;
    let socket = Socket::new(Domain::for_address(spec.to), Type::DGRAM, None).step("socket")?;
    let to = SockAddr::from(spec.to);
    let mut payload = libc::iovec {
        iov_base: spec.marker.as_ptr().cast_mut().cast(),
        iov_len: spec.marker.len(),
    };
    // SAFETY: all zeroes is an empty message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = &raw mut payload;
    message.msg_iovlen = 1;
    let fd = types::Fd(socket.as_raw_fd());
    submit(
        &mut ring,
        &opcode::SendMsg::new(fd, &raw const message).build(),
    )
    .step("sendmsg")
    .map(drop)
}

/// Nothing but the ring's own thread makes, connects and uses the socket.
pub(super) fn polled(spec: &Spec) -> Result<(), Failure> {
    let mut ring = IoUring::builder()
        .setup_sqpoll(POLL_IDLE_MS)
        .build(4)
        .step("io_uring_setup")?;
    let to = SockAddr::from(spec.to);
    let made = submit(
        &mut ring,
        &opcode::Socket::new(to.family().into(), libc::SOCK_STREAM, 0).build(),
    )
    .step("socket")?;
    // SAFETY: the kernel has just given this process the descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(made) };
    let fd = types::Fd(socket.as_raw_fd());
    submit(
        &mut ring,
        &opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build(),
    )
    .step("connect")?;
    let length = u32::try_from(spec.marker.len()).expect("short");
    submit(
        &mut ring,
        &opcode::Send::new(fd, spec.marker.as_ptr(), length).build(),
    )
    .step("send")
    .map(drop)
}

/// Does one operation and waits for its result. What it points to must live through the call.
fn submit(ring: &mut IoUring, entry: &Entry) -> io::Result<i32> {
    // SAFETY: every caller keeps what the entry points to until this returns.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring
        .completion()
        .next()
        .ok_or_else(|| io::Error::other("no completion"))?
        .result();
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}
