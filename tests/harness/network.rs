//! Two network namespaces and the wire between them: agents on one side, the world on the other.

use std::{
    fs::{self, File},
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

/// Interface of the agents' side.
pub const CLIENT_LINK: &str = "agents0";
/// Interface of the world's side.
pub const SERVER_LINK: &str = "world0";
/// IPv4 address of the agents' side.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// IPv4 address of the world's side, in no zone.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Broadcast address of the wire.
pub const WIRE_BROADCAST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 255);
/// IPv6 address of the agents' side.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// IPv6 address of the world's side, in no zone.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// What the test policies call the zone `allowed`: all of it is answered by the world.
pub const ALLOWED_ZONE: [&str; 2] = ["10.1.0.0/16", "fd00:1::/32"];
/// Addresses that the world answers just as well, and that no test policy allows.
pub const DENIED_ZONE: [&str; 2] = ["10.2.0.0/16", "fd00:2::/32"];

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which side of the test policies an address is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// In [`ALLOWED_ZONE`].
    Allowed,
    /// In [`DENIED_ZONE`].
    Denied,
}

/// The namespaces, joined by a veth pair.
///
/// They have no names: the kernel takes them down with the last process or descriptor in them, so
/// that a killed test leaves nothing.
#[derive(Debug)]
pub struct Network {
    /// Where agents run.
    pub client: Netns,
    /// Where they connect to.
    pub server: Netns,
    next_host: AtomicU16,
}

impl Network {
    /// Makes both sides and the wire.
    ///
    /// # Panics
    ///
    /// If a namespace, link, address or route cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let client = Netns::new();
        let server = Netns::new();
        client.set_sysctl("ipv6/conf/default/accept_dad", "0");
        server.set_sysctl("ipv6/conf/default/accept_dad", "0");
        // Addresses of the link itself would only add neighbour discovery to the wire.
        client.configure(&format!(
            "link add {CLIENT_LINK} address 02:00:00:00:00:01 type veth \
             peer {SERVER_LINK} address 02:00:00:00:00:02 netns {server_path}\n\
             link set lo up\n\
             link set {CLIENT_LINK} addrgenmode none up\n\
             addr add {CLIENT_V4}/24 broadcast {WIRE_BROADCAST} dev {CLIENT_LINK}\n\
             addr add {CLIENT_V6}/64 dev {CLIENT_LINK} nodad\n",
            server_path = server.path(),
        ));
        server.configure(&format!(
            "link set lo up\n\
             link set {SERVER_LINK} addrgenmode none up\n\
             addr add {SERVER_V4}/24 broadcast {WIRE_BROADCAST} dev {SERVER_LINK}\n\
             addr add {SERVER_V6}/64 dev {SERVER_LINK} nodad\n\
             neigh add {CLIENT_V4} lladdr 02:00:00:00:00:01 dev {SERVER_LINK} nud permanent\n\
             neigh add {CLIENT_V6} lladdr 02:00:00:00:00:01 dev {SERVER_LINK} nud permanent\n\
             route add local 10.0.0.0/8 dev lo\n\
             route add local fd00::/16 dev lo\n",
        ));
        client.configure(&format!(
            "neigh add {SERVER_V4} lladdr 02:00:00:00:00:02 dev {CLIENT_LINK} nud permanent\n\
             neigh add {SERVER_V6} lladdr 02:00:00:00:00:02 dev {CLIENT_LINK} nud permanent\n\
             route add default via {SERVER_V4}\n\
             route add default via {SERVER_V6}\n",
        ));
        client.set_sysctl("ipv4/ping_group_range", "0 2147483647");
        // Fast open without a cookie: the first packet of the first connection carries data.
        client.set_sysctl("ipv4/tcp_fastopen", "5");
        server.set_sysctl("ipv4/tcp_fastopen", "519");
        Self {
            client,
            server,
            next_host: AtomicU16::new(1),
        }
    }

    /// An address on the world's side that no other probe of this network has used, so that a packet
    /// or record with it belongs to one probe.
    #[must_use]
    pub fn fresh(&self, family: Family, zone: Zone) -> IpAddr {
        let host = self.next_host.fetch_add(1, Ordering::Relaxed);
        let net: u8 = match zone {
            Zone::Allowed => 1,
            Zone::Denied => 2,
        };
        let [high, low] = host.to_be_bytes();
        match family {
            Family::V4 => Ipv4Addr::new(10, net, high, low).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host).into(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// A network namespace, held by its descriptor.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// Makes an empty one.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[must_use]
    pub fn new() -> Self {
        // A thread of its own: the caller stays where it is.
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare the network namespace");
            File::open("/proc/thread-self/ns/net").expect("open the network namespace")
        });
        Self(made.join().expect("make a network namespace").into())
    }

    /// Runs `work` on a thread inside. Sockets that it makes stay inside for good.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets `/proc/sys/net/…` inside.
    ///
    /// # Panics
    ///
    /// If the kernel refuses the value.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("set {path} to {value}: {error}"));
    }

    /// Runs lines of `ip -batch` inside.
    ///
    /// # Panics
    ///
    /// With what `ip` says if one fails.
    pub fn configure(&self, batch: &str) {
        let output = self.enter(|| {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("start ip");
            let mut stdin = ip.stdin.take().expect("stdin is piped");
            stdin.write_all(batch.as_bytes()).expect("write to ip");
            drop(stdin);
            ip.wait_with_output().expect("wait for ip")
        });
        assert!(
            output.status.success(),
            "ip refused:\n{batch}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
