//! The record of a flow's end tells what went over it, as an independent count on the wire does.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    agent::Probe,
    audit,
    daemon::Daemon,
    network::{CLIENT_LINK, CLIENT_V4, CLIENT_V6, Family, Zone},
    probe::{DATAGRAM_BYTES, Talk, Transport},
    sniffer::{Packet, Sniffer},
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::scene::{Scene, policy};

/// 1 MiB out, 64 KiB back.
const ROUNDS: u32 = 64;
const SEND: usize = 16 << 10;
const RECEIVE: usize = 1 << 10;

const LISTEN_PORT: u16 = 9_000;
/// How long a flow is held open and idle at least.
const HELD: Duration = Duration::from_millis(200);
const PEER_TIMEOUT: Duration = Duration::from_secs(20);

const MTU: u64 = 1_500;
const SYN: u8 = 2;

/// How the flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By both sides, in good order.
    Closed,
    /// With its process, by SIGKILL.
    Killed,
}

#[test]
fn the_record_of_a_connected_tcp_flow_agrees_with_the_wire() {
    check_all(Transport::TcpConnect);
}

#[test]
fn the_record_of_an_accepted_tcp_flow_agrees_with_the_wire() {
    check_all(Transport::TcpAccept);
}

#[test]
fn the_record_of_a_udp_flow_agrees_with_the_wire() {
    check_all(Transport::UdpConnect);
}

fn check_all(transport: Transport) {
    let scene = Scene::new();
    let ingress =
        format!("[[roles.r.ingress]]\nzones = [\"any\"]\nports = [\"{LISTEN_PORT}/tcp\"]\n");
    let daemon = Daemon::start(&scene.sandbox, &(policy("") + &ingress));
    // Lets the peer be any address of the allowed zone.
    (scene.sandbox.network.server).set_sysctl("ipv6/ip_nonlocal_bind", "1");
    let inbound = Sniffer::on_link(&scene.sandbox.network.client, CLIENT_LINK);
    for end in [End::Closed, End::Killed] {
        for family in [Family::V4, Family::V6] {
            check(&scene, &daemon, &inbound, (transport, end, family));
        }
    }
}

type Case = (Transport, End, Family);

fn check(scene: &Scene, daemon: &Daemon, inbound: &Sniffer, case: Case) {
    let (transport, end, family) = case;
    let began = Instant::now();
    let (mut probe, remote, port, peer) = start(scene, transport, family);
    let opened = Instant::now();
    probe.resume();
    probe.wait_ready();
    thread::sleep(HELD);
    let held = opened.elapsed();
    match end {
        End::Closed => probe.finish(),
        End::Killed => probe.kill(),
    }
    peer.join().expect("the peer saw the end");
    let record = daemon.events().wait_for("the end of the flow", |event| {
        let ends = [&event["src_endpoint"], &event["dst_endpoint"]];
        event["activity_id"] == 2
            && audit::identity(event) == "bot"
            && ends
                .iter()
                .any(|end| end["ip"] == remote.ip().to_string() && end["port"] == remote.port())
    });
    let outside = began.elapsed();

    scene.sandbox.sniffer.settle(&scene.sandbox.network);
    let mut out = Count::of(scene.sandbox.sniffer.take(), |packet| {
        packet.destination == remote.ip() && ports(packet) == (port, remote.port())
    });
    let mut back = Count::of(inbound.take(), |packet| {
        packet.source == remote.ip() && ports(packet) == (remote.port(), port)
    });
    if transport == Transport::TcpAccept {
        // The handshake is the listener's: the flow opens when it is over.
        out.leave_out(1, &case);
        back.leave_out(2, &case);
    }
    let traffic = |key: &str| record["traffic"][key].as_u64().expect("a number");
    let told = [
        (traffic("bytes_out"), traffic("packets_out")),
        (traffic("bytes_in"), traffic("packets_in")),
    ];
    // A socket that nobody holds is closed for the kernel at the peer's acknowledgement, or when
    // the peer closes: the last packets need not be the flow's any more.
    let slack = if end == End::Killed && transport != Transport::UdpConnect {
        2
    } else {
        0
    };
    for ((bytes, packets), count) in told.into_iter().zip([out, back]) {
        count.assert_agrees(bytes, packets, slack, &case, &record);
    }
    let payload = u64::from(ROUNDS) * SEND as u64;
    assert!(told[0].0 > payload, "{case:?}: {record}");
    let duration = u128::from(record["duration"].as_u64().expect("milliseconds"));
    assert!(
        duration + 1 >= held.as_millis() && duration <= outside.as_millis() + 1,
        "{case:?}: {duration} ms, held for {held:?} of {outside:?}"
    );
}

/// A flow between a probe and a peer in the world: the probe, the far end, the port at this end.
fn start(
    scene: &Scene,
    transport: Transport,
    family: Family,
) -> (Probe, SocketAddr, u16, thread::JoinHandle<()>) {
    let network = &scene.sandbox.network;
    let agent = scene.sandbox.agent(&scene.cgroup);
    let talk = |peer| Talk {
        transport,
        peer,
        rounds: ROUNDS,
        send: SEND,
        receive: RECEIVE,
    };
    let there = SocketAddr::new(network.fresh(family, Zone::Allowed), 0);
    match transport {
        Transport::TcpConnect => {
            let listener = network
                .server
                .enter(|| TcpListener::bind(there))
                .expect("bind");
            let remote = listener.local_addr().expect("it is bound");
            let peer = thread::spawn(move || {
                let (stream, _) = listener.accept().expect("accept");
                serve_tcp(stream);
            });
            let mut probe = agent.talk(&talk(remote));
            let port = probe.wait_ready();
            (probe, remote, port, peer)
        }
        Transport::TcpAccept => {
            let here = match family {
                Family::V4 => SocketAddr::from((CLIENT_V4, LISTEN_PORT)),
                Family::V6 => SocketAddr::from((CLIENT_V6, LISTEN_PORT)),
            };
            let any = match family {
                Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, LISTEN_PORT)),
                Family::V6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, LISTEN_PORT)),
            };
            let mut probe = agent.talk(&talk(any));
            probe.wait_ready();
            // From an address of its own: repeats from one are folded into one record.
            let stream = network.server.enter(|| connect(there, here));
            let remote = stream.local_addr().expect("it is connected");
            probe.wait_ready();
            (
                probe,
                remote,
                LISTEN_PORT,
                thread::spawn(|| serve_tcp(stream)),
            )
        }
        Transport::UdpConnect => {
            let socket = network
                .server
                .enter(|| UdpSocket::bind(there))
                .expect("bind");
            let remote = socket.local_addr().expect("it is bound");
            let mut probe = agent.talk(&talk(remote));
            let port = probe.wait_ready();
            (probe, remote, port, thread::spawn(|| serve_udp(socket)))
        }
    }
}

fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("make a socket");
    socket.bind(&from.into()).expect("bind");
    socket.connect(&to.into()).expect("connect");
    socket.into()
}

fn serve_tcp(mut stream: TcpStream) {
    stream
        .set_read_timeout(Some(PEER_TIMEOUT))
        .expect("set a timeout");
    let mut payload = vec![0; SEND];
    for _ in 0..ROUNDS {
        stream.read_exact(&mut payload).expect("read");
        stream.write_all(&payload[..RECEIVE]).expect("write");
    }
    let rest = stream.read_to_end(&mut payload).expect("read the end");
    assert_eq!(rest, 0, "nothing more was sent");
}

fn serve_udp(socket: UdpSocket) {
    socket
        .set_read_timeout(Some(PEER_TIMEOUT))
        .expect("set a timeout");
    let mut payload = [0; RECEIVE];
    for _ in 0..ROUNDS {
        let mut left = SEND;
        while left > 0 {
            let (length, from) = socket.recv_from(&mut payload).expect("receive");
            left -= length;
            if left == 0 {
                socket.send_to(&payload, from).expect("send");
            }
        }
    }
    const { assert!(RECEIVE == DATAGRAM_BYTES) };
}

/// Source and destination port.
fn ports(packet: &Packet) -> (u16, u16) {
    packet
        .transport()
        .map_or((0, 0), |(_, from, to)| (from, to))
}

/// What went by on the wire.
struct Count {
    packets: Vec<Packet>,
}

impl Count {
    fn of(packets: Vec<Packet>, wanted: impl Fn(&Packet) -> bool) -> Self {
        Self {
            packets: packets.into_iter().filter(wanted).collect(),
        }
    }

    /// Leaves out the first packets, which must be of a handshake.
    fn leave_out(&mut self, count: usize, case: &Case) {
        let first = self.packets.first().and_then(Packet::tcp_flags);
        assert!(first.is_some_and(|flags| flags & SYN != 0), "{case:?}");
        self.packets.drain(..count);
    }

    /// Whether a record has just these bytes and packets. It may lack `slack` packets at the end.
    fn assert_agrees(&self, bytes: u64, packets: u64, slack: usize, case: &Case, record: &Value) {
        let sums = (0..=slack).map(|lacking| {
            let counted = &self.packets[..self.packets.len() - lacking];
            let bytes: u64 = counted.iter().filter_map(Packet::length).sum();
            (bytes, counted.iter().map(on_a_real_wire).sum::<u64>())
        });
        let sums: Vec<(u64, u64)> = sums.collect();
        assert!(
            sums.contains(&(bytes, packets)),
            "{case:?}: the record has {bytes} bytes in {packets} packets, the wire {sums:?}\n{record}"
        );
    }
}

/// Packets that a network card would cut it into: the wire of the tests carries larger ones.
fn on_a_real_wire(packet: &Packet) -> u64 {
    let (length, headers) = (
        packet.length().unwrap_or(0),
        packet.header_bytes().unwrap_or(0),
    );
    (length - headers).div_ceil(MTU - headers).max(1)
}
