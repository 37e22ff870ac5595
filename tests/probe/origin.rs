//! Where the socket and its user come from: born inside, moved, inherited, passed in.

use std::{
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use agentguard_tests::{
    agent::die_with_parent,
    probe::{Origin, Spec},
    socket::check,
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
        wait::waitpid,
    },
    unistd::{ForkResult, Uid, fork, setgroups, setresgid, setresuid},
};
use socket2::Socket;

use crate::{
    failure::{Failure, Step},
    pause, routes,
    routes::plain,
};

/// As in `linux/sched.h`; the constant of `libc` has too few bits.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Brings socket and process to where `spec` wants them, then takes its route.
pub(crate) fn run(spec: &Spec) -> Result<(), Failure> {
    match spec.origin {
        Origin::Own => {
            become_user(spec.uid).step("become")?;
            routes::take(spec)
        }
        Origin::MovedUnconnected => {
            let socket = plain::open(spec)?;
            enter(&spec.cgroup).step("enter")?;
            become_user(spec.uid).step("become")?;
            plain::connect(spec, &socket)?;
            plain::send(spec, &socket)
        }
        Origin::MovedConnected => {
            let socket = plain::open(spec)?;
            plain::connect(spec, &socket)?;
            enter(&spec.cgroup).step("enter")?;
            become_user(spec.uid).step("become")?;
            pause(0);
            plain::send(spec, &socket)
        }
        Origin::Inherited => {
            let socket = plain::open(spec)?;
            in_child(|| {
                enter(&spec.cgroup).step("enter")?;
                become_user(spec.uid).step("become")?;
                plain::connect(spec, &socket)?;
                plain::send(spec, &socket)
            })
        }
        Origin::PassedUnconnected => pass(spec),
        Origin::PassedConnected => pass_connected(spec),
        Origin::Born => be_born(spec),
        Origin::NewChild => {
            let child = spec.cgroup.join(format!("new-{}", std::process::id()));
            fs::create_dir(&child).step("mkdir")?;
            enter(&child).step("enter")?;
            become_user(spec.uid).step("become")?;
            routes::take(spec)
        }
        Origin::Left => {
            enter(&spec.cgroup).step("enter")?;
            routes::take(spec)
        }
        Origin::OwnNamespaces => {
            become_user(spec.uid).step("become")?;
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).step("unshare")?;
            raise_loopback().step("raise loopback")?;
            pause(0);
            routes::take(spec)
        }
    }
}

/// The parent makes the socket outside, the child connects and uses it inside.
fn pass(spec: &Spec) -> Result<(), Failure> {
    let (outside, inside) = UnixStream::pair().step("socketpair")?;
    let socket = plain::open(spec)?;
    hand_over(&outside, &socket)?;
    in_child(|| {
        // The child's copy by `fork` must not be what it uses.
        enter(&spec.cgroup).step("enter")?;
        become_user(spec.uid).step("become")?;
        let socket = receive(&inside).step("receive")?;
        plain::connect(spec, &socket)?;
        plain::send(spec, &socket)
    })
}

/// The child waits inside; the parent connects outside and only then passes the socket in, so that
/// nothing but the descriptor moves.
fn pass_connected(spec: &Spec) -> Result<(), Failure> {
    let (outside, inside) = UnixStream::pair().step("socketpair")?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.step("fork")? {
        ForkResult::Child => {
            enter(&spec.cgroup).step("enter")?;
            become_user(spec.uid).step("become")?;
            pause(0);
            (&inside).write_all(b"s").step("ask")?;
            let socket = receive(&inside).step("receive")?;
            plain::send(spec, &socket)
        }
        ForkResult::Parent { child } => {
            (&outside).read_exact(&mut [0]).step("wait")?;
            let socket = plain::open(spec)?;
            plain::connect(spec, &socket)?;
            hand_over(&outside, &socket)?;
            let ended = waitpid(child, None);
            std::process::exit(i32::from(ended.is_err()));
        }
    }
}

fn hand_over(to: &UnixStream, socket: &Socket) -> Result<(), Failure> {
    let descriptors = [socket.as_raw_fd()];
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(b"s")],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )
    .step("pass")
    .map(drop)
}

fn receive(from: &UnixStream) -> io::Result<Socket> {
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        from.as_raw_fd(),
        &mut buffers,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let [descriptor] = descriptors.as_slice()
        {
            // SAFETY: the kernel has just given this process the descriptor.
            return Ok(unsafe { OwnedFd::from_raw_fd(*descriptor) }.into());
        }
    }
    Err(io::Error::other("no descriptor came"))
}

/// Runs `work` in a child, and ends as it does: the child reports, the parent says nothing.
fn in_child(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }.step("fork")? {
        ForkResult::Child => work(),
        ForkResult::Parent { child } => {
            let ended = waitpid(child, None);
            std::process::exit(i32::from(ended.is_err()));
        }
    }
}

fn be_born(spec: &Spec) -> Result<(), Failure> {
    let cgroup = File::open(&spec.cgroup).step("open cgroup")?;
    // SAFETY: all zeroes is the default of this plain structure.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD.try_into().expect("a signal");
    arguments.cgroup = cgroup.as_raw_fd().try_into().expect("a descriptor");
    // SAFETY: without a stack or `CLONE_VM` this is `fork`, and this process has one thread.
    let child = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match i32::try_from(child).expect("pids are small") {
        0 => {
            become_user(spec.uid).step("become")?;
            routes::take(spec)
        }
        child => {
            check(child).step("clone3")?;
            let ended = waitpid(nix::unistd::Pid::from_raw(child), None);
            std::process::exit(i32::from(ended.is_err()));
        }
    }
}

/// Moves this process to a cgroup.
fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

/// Gives up root for good, groups included.
fn become_user(uid: u32) -> io::Result<()> {
    if uid != 0 {
        let gid = nix::unistd::Gid::from_raw(uid);
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        let uid = Uid::from_raw(uid);
        setresuid(uid, uid, uid)?;
        // A change of user forgets it.
        die_with_parent()?;
    }
    Ok(())
}

/// Brings up `lo`, by the capabilities that a new user namespace gives.
fn raise_loopback() -> io::Result<()> {
    // Not an internet socket: policy may refuse those.
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    // SAFETY: all zeroes is a value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = (*from).cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP.try_into().expect("a flag");
    // SAFETY: the request is what this call wants, and lives through it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}
