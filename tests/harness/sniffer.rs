//! What arrives in a network namespace: the one witness of whether a packet left.

use std::{
    ffi::CString,
    io::Read,
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use crate::{
    network::{CLIENT_V4, Netns, Network, SERVER_LINK, SERVER_V4},
    socket,
};

/// The first bytes of a frame that are kept.
const SNAP_BYTES: usize = 512;
const ETHERNET_BYTES: usize = 14;
const V4_HEADER_BYTES: usize = 20;
const V6_HEADER_BYTES: usize = 40;
const UDP_HEADER_BYTES: usize = 8;
const TCP: u8 = 6;
const FENCE_PORT: u16 = 9;

/// One packet as it came off the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination: where it was really sent, whatever headers inside say.
    pub destination: IpAddr,
    /// From the IP header on, cut to a few hundred bytes.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// Whether it holds these bytes.
    #[must_use]
    pub fn carries(&self, marker: &str) -> bool {
        self.bytes
            .windows(marker.len())
            .any(|window| window == marker.as_bytes())
    }

    /// Bytes of the IP packet, by its header: there may be more than were kept.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        Some(if self.destination.is_ipv4() {
            u64::from(self.word(2)?)
        } else {
            u64::from(self.word(4)?) + V6_HEADER_BYTES as u64
        })
    }

    /// Protocol number, source and destination port of a packet without options or extensions.
    #[must_use]
    pub fn transport(&self) -> Option<(u8, u16, u16)> {
        let protocol = if self.destination.is_ipv4() { 9 } else { 6 };
        let at = self.ip_header_bytes();
        Some((
            *self.bytes.get(protocol)?,
            self.word(at)?,
            self.word(at + 2)?,
        ))
    }

    /// The flags of a TCP packet without options or extensions of IP.
    #[must_use]
    pub fn tcp_flags(&self) -> Option<u8> {
        self.bytes.get(self.ip_header_bytes() + 13).copied()
    }

    /// Bytes of the IP and TCP or UDP headers of a packet without options or extensions of IP.
    #[must_use]
    pub fn header_bytes(&self) -> Option<u64> {
        let at = self.ip_header_bytes();
        let transport = match self.transport()?.0 {
            TCP => usize::from(*self.bytes.get(at + 12)? >> 4) * 4,
            _ => UDP_HEADER_BYTES,
        };
        u64::try_from(at + transport).ok()
    }

    fn ip_header_bytes(&self) -> usize {
        if self.destination.is_ipv4() {
            V4_HEADER_BYTES
        } else {
            V6_HEADER_BYTES
        }
    }

    fn word(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    }
}

/// Records every IP packet that arrives at an interface.
#[derive(Debug)]
pub struct Sniffer {
    socket: Arc<Socket>,
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Sees nothing from now on, for traffic of which there is too much to look at.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn stop(&self) {
        // Keep 0 bytes of a packet: it is not even queued.
        let code = u16::try_from(libc::BPF_RET | libc::BPF_K).expect("a small number");
        let nothing = SockFilter::new(code, 0, 0, 0);
        self.socket
            .attach_filter(&[nothing])
            .expect("attach a filter");
    }

    /// Listens where the world's side of the wire ends.
    #[must_use]
    pub fn on_wire(network: &Network) -> Self {
        Self::on_link(&network.server, SERVER_LINK)
    }

    /// Listens at `link` inside `netns`.
    ///
    /// # Panics
    ///
    /// If the socket cannot be made.
    #[must_use]
    pub fn on_link(netns: &Netns, link: &str) -> Self {
        let socket = Arc::new(netns.enter(|| open(link)));
        let packets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (socket, packets, stop) = (socket.clone(), packets.clone(), stop.clone());
            move || {
                let mut frame = [0; SNAP_BYTES];
                while !stop.load(Ordering::Relaxed) {
                    // An error is the timeout, or an interface that went down.
                    if let Ok(length) = (&*socket).read(&mut frame)
                        && let Some(packet) = frame.get(..length).and_then(parse)
                    {
                        packets.lock().expect("no reader panics").push(packet);
                    }
                }
            }
        });
        Self {
            socket,
            packets,
            stop,
            reader: Some(reader),
        }
    }

    /// Waits until everything sent before this call has been recorded.
    ///
    /// # Panics
    ///
    /// If frames were lost, or the wire is cut.
    pub fn settle(&self, network: &Network) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let token = format!(
            "agentguard-fence-{:08}",
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        network.client.enter(|| {
            let socket = UdpSocket::bind((CLIENT_V4, 0)).expect("bind the fence");
            for cpu in allowed_cpus() {
                // Packets of different CPUs wait in different queues: one fence for each.
                run_on(cpu);
                socket
                    .send_to(token.as_bytes(), (SERVER_V4, FENCE_PORT))
                    .expect("send the fence");
            }
        });
        let fences = allowed_cpus().len();
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.count(|packet| packet.carries(&token)) < fences {
            assert!(Instant::now() < deadline, "the fence never arrived");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.lost(), 0, "the sniffer lost frames");
    }

    /// How many recorded packets `wanted` holds for.
    ///
    /// # Panics
    ///
    /// If the reader did.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(&Packet) -> bool) -> usize {
        let packets = self.packets.lock().expect("no reader panics");
        packets.iter().filter(|packet| wanted(packet)).count()
    }

    /// The packets sent to `destination`.
    ///
    /// # Panics
    ///
    /// If the reader did.
    #[must_use]
    pub fn packets_to(&self, destination: IpAddr) -> Vec<Packet> {
        let packets = self.packets.lock().expect("no reader panics");
        packets
            .iter()
            .filter(|packet| packet.destination == destination)
            .cloned()
            .collect()
    }

    /// Takes all packets that were recorded up to now: later calls know nothing of them.
    ///
    /// # Panics
    ///
    /// If the reader did.
    #[must_use]
    pub fn take(&self) -> Vec<Packet> {
        std::mem::take(&mut *self.packets.lock().expect("no reader panics"))
    }

    fn lost(&self) -> u32 {
        // SAFETY: the structure is two integers, and what this option gives.
        let statistics: libc::tpacket_stats =
            unsafe { socket::option(&*self.socket, libc::SOL_PACKET, libc::PACKET_STATISTICS) }
                .expect("read the statistics of a packet socket");
        statistics.tp_drops
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

fn open(link: &str) -> Socket {
    let every_protocol = u16::try_from(libc::ETH_P_ALL).expect("16 bits").to_be();
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(i32::from(every_protocol))),
    )
    .expect("open a packet socket");
    let name = CString::new(link).expect("no NUL in a link name");
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no link {link}");
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address, which the storage is made to hold.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET.try_into().expect("16 bits");
    address.sll_protocol = every_protocol;
    address.sll_ifindex = i32::try_from(index).expect("small");
    let length = mem::size_of::<libc::sockaddr_ll>()
        .try_into()
        .expect("small");
    // SAFETY: the storage holds an address of this length.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address).expect("bind the packet socket");
    socket::set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
        .expect("leave out what is sent");
    socket::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)
        .expect("make room for a storm");
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("set a timeout");
    socket
}

fn parse(frame: &[u8]) -> Option<Packet> {
    let ether_type = frame.get(12..ETHERNET_BYTES)?;
    let packet = frame.get(ETHERNET_BYTES..)?;
    let (source, destination) = match ether_type {
        [0x08, 0x00] => (v4(packet, 12)?, v4(packet, 16)?),
        [0x86, 0xdd] => (v6(packet, 8)?, v6(packet, 24)?),
        _ => return None,
    };
    Some(Packet {
        source,
        destination,
        bytes: packet.to_vec(),
    })
}

fn v4(packet: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn v6(packet: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

fn allowed_cpus() -> Vec<usize> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(
        i32::try_from(std::process::id()).expect("pids are small"),
    ))
    .expect("read the affinity");
    (0..nix::sched::CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).is_ok_and(|set| set))
        .collect()
}

fn run_on(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).expect("the CPU exists");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).expect("choose a CPU");
}
