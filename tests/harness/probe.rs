//! What the harness asks of a probe process, and what the probe answers.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// One attempt to get a marker out by one route.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// How.
    pub route: Route,
    /// Where the packet is to go.
    pub to: SocketAddr,
    /// An allowed destination, for routes that name two.
    pub decoy: SocketAddr,
    /// What the payload holds.
    pub marker: String,
    /// Whom the probe becomes after it has made what needs root.
    pub uid: u32,
    /// Where the socket and the process come from.
    #[serde(default)]
    pub origin: Origin,
    /// The identity's cgroup, for origins that enter it late.
    #[serde(default)]
    pub cgroup: PathBuf,
    /// Whether to wait for a line on stdin before the marker is sent.
    #[serde(default)]
    pub pause: bool,
}

impl Spec {
    /// The destination's address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.to.ip()
    }
}

/// A flow that lasts, and what goes over it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Talk {
    /// The protocol.
    pub transport: Transport,
    /// Whom it connects to; for [`Transport::TcpAccept`] the end that listens.
    pub peer: SocketAddr,
    /// Times that something goes out and something comes back, at each word of the harness.
    pub rounds: u32,
    /// Bytes that go out each time.
    pub send: usize,
    /// Bytes that come back each time.
    pub receive: usize,
}

/// How a [`Talk`] comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// `connect` of a TCP socket.
    TcpConnect,
    /// `accept`; the port is announced before a peer is waited for.
    TcpAccept,
    /// `connect` of a UDP socket. What goes out is cut into datagrams of [`DATAGRAM_BYTES`].
    UdpConnect,
}

/// Bytes in each datagram of a [`Talk`].
pub const DATAGRAM_BYTES: usize = 1_024;

/// The user `nobody`.
pub const NOBODY: u32 = 65534;

/// What a proxy behind a unix socket answers when it has connected.
pub const PROXIED: u8 = b'y';

/// The routes that a probe knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// `connect`, `write`.
    Tcp,
    /// The same without blocking.
    TcpNonblocking,
    /// IPv4 over an IPv6 socket.
    TcpMapped,
    /// `sendto` with `MSG_FASTOPEN`: no `connect` at all.
    TcpFastOpenSendto,
    /// `TCP_FASTOPEN_CONNECT`: `connect` sends nothing, `write` does.
    TcpFastOpenConnect,
    /// `SO_BINDTODEVICE`.
    TcpBoundToDevice,
    /// `SO_MARK`.
    TcpMarked,
    /// An IPv6 routing header to `to`, with `decoy` as the last hop.
    TcpRoutingHeader,
    /// An IPv4 loose source route over `to`, with `decoy` as the last hop.
    TcpSourceRoute,
    /// A connected socket dissolved with `AF_UNSPEC` and connected again.
    TcpReconnect,
    /// `IPPROTO_MPTCP`.
    Mptcp,
    /// `IORING_OP_CONNECT`.
    UringConnect,
    /// `IORING_OP_SENDMSG` on an unconnected UDP socket.
    UringSendmsg,
    /// `IORING_OP_SOCKET`, `CONNECT` and `SEND` by a kernel thread that polls.
    UringPolled,
    /// `connect`, `send`.
    UdpConnect,
    /// `sendto`.
    UdpSendto,
    /// `sendto` another address on a socket connected to `decoy`.
    UdpSendtoConnected,
    /// A second `connect`, from `decoy` to `to`.
    UdpReconnect,
    /// Connected to `decoy`, dissolved with `AF_UNSPEC`, then `sendto`.
    UdpDissolvedSendto,
    /// `sendmmsg`: the first message to `decoy`, the second to `to`.
    UdpSendmmsg,
    /// `sendto` with `MSG_MORE`, then the rest: one packet from two calls.
    UdpCorked,
    /// IPv4 over an IPv6 socket, `sendto`.
    UdpMappedSendto,
    /// IPv4 over an IPv6 socket, `connect`.
    UdpMappedConnect,
    /// `UDP_SEGMENT`: many datagrams from one call.
    UdpSegmented,
    /// `SO_BINDTODEVICE`.
    UdpBoundToDevice,
    /// `SO_MARK`.
    UdpMarked,
    /// An IPv6 routing header to `to`, with `decoy` as the last hop.
    UdpRoutingHeader,
    /// An IPv4 loose source route over `to`, with `decoy` as the last hop.
    UdpSourceRoute,
    /// `SO_BROADCAST`.
    UdpBroadcast,
    /// A group as the destination.
    UdpMulticast,
    /// UDP-Lite.
    UdpLite,
    /// An ICMP datagram socket.
    Ping,
    /// A raw ICMP socket.
    RawIcmp,
    /// A raw socket that writes the IPv4 header itself.
    RawHeader,
    /// A raw socket of protocol UDP.
    RawUdp,
    /// A raw socket of a protocol without ports.
    RawOther,
    /// `bind` and `listen` on the port of `to`, then wait for a peer.
    Listen,
    /// `listen` without `bind`: the kernel chooses the port, which is announced.
    ListenUnbound,
    /// `bind` on the port of `to`, then wait for a datagram.
    Receive,
    /// A frame written to the link itself.
    Packet,
    /// A packet injected through a TUN device, forwarded by the kernel.
    Tun,
    /// A socket to the hypervisor.
    Vsock,
    /// A unix socket to a process that connects on the caller's behalf; its path is `cgroup`.
    UnixProxy,
}

/// Where the socket and the process that uses it come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The probe makes the socket where it was started.
    #[default]
    Own,
    /// The probe makes the socket, then enters the cgroup.
    MovedUnconnected,
    /// The probe makes and connects the socket, then enters the cgroup.
    MovedConnected,
    /// A child of the probe enters the cgroup and uses a socket of its parent.
    Inherited,
    /// A child of the probe enters the cgroup; its parent makes a socket and passes it.
    PassedUnconnected,
    /// The same with a connected socket.
    PassedConnected,
    /// A child is born in the cgroup (`CLONE_INTO_CGROUP`) and makes its own socket.
    Born,
    /// The probe makes a cgroup below the given one, enters it and connects at once.
    NewChild,
    /// The probe starts inside and writes itself to the given cgroup, outside.
    Left,
    /// A user and network namespace of the probe's own; only its loopback is there.
    OwnNamespaces,
}

/// What a probe says on stdout, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// Everything up to the pause worked; where it listens, on which port.
    Ready {
        /// The local port.
        port: u16,
    },
    /// Every call worked. Whether a packet left is for the sniffer to say.
    Done,
    /// A call failed.
    Failed {
        /// Which.
        step: String,
        /// Why, as `errno`; 0 where it is a timeout of the probe's own.
        errno: i32,
    },
}
