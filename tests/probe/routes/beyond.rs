//! Routes that no cgroup hook sees.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    mem,
    os::{fd::AsRawFd, unix::net::UnixStream},
    process::Command,
};

use agentguard_tests::{
    network::CLIENT_LINK,
    probe::{PROXIED, Spec},
    socket::check,
};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::{
    failure::{Failure, Step},
    packet,
};

/// Hardware address of the world's end of the wire.
const WORLD_MAC: [u8; 8] = [2, 0, 0, 0, 0, 2, 0, 0];
const TUN_LINK: &str = "tun0";

pub(super) fn packet(spec: &Spec) -> Result<(), Failure> {
    let ether_type = if spec.to.is_ipv4() {
        libc::ETH_P_IP
    } else {
        libc::ETH_P_IPV6
    };
    let ether_type = u16::try_from(ether_type).expect("16 bits").to_be();
    let socket = Socket::new(
        Domain::PACKET,
        Type::DGRAM,
        Some(Protocol::from(i32::from(ether_type))),
    )
    .step("socket")?;
    let link = nix::net::if_::if_nametoindex(CLIENT_LINK).step("find the link")?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address, which the storage is made to hold.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET.try_into().expect("16 bits");
    address.sll_protocol = ether_type;
    address.sll_ifindex = link.try_into().expect("small");
    address.sll_halen = 6;
    address.sll_addr = WORLD_MAC;
    let length = size_of::<libc::sockaddr_ll>().try_into().expect("small");
    // SAFETY: the storage holds an address of this length.
    let to = unsafe { SockAddr::new(storage, length) };
    socket
        .send_to(&packet::whole(spec), &to)
        .step("sendto")
        .map(drop)
}

pub(super) fn tun(spec: &Spec) -> Result<(), Failure> {
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .step("open")?;
    // SAFETY: all zeroes is a value of this plain structure.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(TUN_LINK.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI).try_into().expect("flags");
    // SAFETY: the request is what this call wants, and lives through it.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw const request) })
        .step("ioctl")?;
    let raised = Command::new("ip")
        .args(["link", "set", TUN_LINK, "up"])
        .status()
        .step("raise the device")?;
    if !raised.success() {
        return Err(io::Error::other("ip failed")).step("raise the device");
    }
    device.write_all(&packet::whole(spec)).step("write")
}

pub(super) fn vsock() -> Result<(), Failure> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None).step("socket")?;
    let any = SockAddr::vsock(libc::VMADDR_CID_ANY, libc::VMADDR_PORT_ANY);
    socket.bind(&any).step("bind")
}

pub(super) fn unix_proxy(spec: &Spec) -> Result<(), Failure> {
    let mut proxy = UnixStream::connect(&spec.cgroup).step("connect")?;
    let request = format!("{} {}\n", spec.to, spec.marker);
    proxy.write_all(request.as_bytes()).step("write")?;
    let mut answer = [0];
    proxy.read_exact(&mut answer).step("read")?;
    if answer == [PROXIED] {
        Ok(())
    } else {
        Err(io::Error::other("the proxy refused")).step("read")
    }
}
