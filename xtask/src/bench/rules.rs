//! What all variants are to judge, in the language of each: who may send to which addresses and ports.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
};

/// The most addresses that a policy of the bench holds.
pub(super) const MOST_ADDRESSES: u32 = 100_000;

pub(super) const TCP_PORTS: std::ops::RangeInclusive<u16> = 9_000..=9_015;
/// The same and that of [`DRAIN`].
const ALLOWED_TCP_PORTS: std::ops::RangeInclusive<u16> = 9_000..=9_016;
pub(super) const UDP_PORTS: std::ops::RangeInclusive<u16> = 10_000..=59_999;

/// Where a stream is read.
pub(super) const DRAIN: SocketAddrV4 = SocketAddrV4::new(address(0), 9_016);

/// Limits far above what anybody here takes.
pub(super) const LIMITS: &str = "[roles.worker.limits]\n\
    connections = { rate = \"10000000/s\", burst = 10000000 }\n\
    egress = \"1000Gbit/s\"\ningress = \"1000Gbit/s\"\n";

/// Somebody beside the worker, with a limit that any flood is over.
pub(super) const FLOOD: &str = "[roles.flood]\n\
    [[roles.flood.egress]]\nzones = [\"peers\"]\nports = [\"10000-59999/udp\"]\n\
    [roles.flood.limits]\nconnections = { rate = \"100/s\", burst = 100 }\n\
    [identities.flood]\nclass = \"agent\"\nowner = \"bench@example.com\"\n\
    purpose = \"flood\"\nenvironment = \"bench\"\nroles = [\"flood\"]\n\
    match = [{ cgroup = \"/flood\" }]\n";

/// Where the ones go that send to one peer only, connected and not.
pub(super) const SINKS: [SocketAddrV4; 2] = [
    SocketAddrV4::new(address(0), 10_001),
    SocketAddrV4::new(address(0), 10_002),
];

/// What no rule allows.
pub(super) const DENIED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 255, 255, 254), 10_001);

/// The address of this number, all over 10.0.0.0/8 so that no two share a prefix that a compiler
/// could take instead.
pub(super) const fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0001 + index * 167)
}

/// Different peers in no order, among so many addresses: another port each time, too.
pub(super) fn peers(addresses: u32, first: u32, count: u32) -> impl Iterator<Item = SocketAddrV4> {
    (first..first + count).map(move |index| {
        let ports = u32::from(UDP_PORTS.end() - UDP_PORTS.start()) + 1;
        let port = UDP_PORTS.start() + u16::try_from(index % ports).unwrap_or(0);
        SocketAddrV4::new(address(scattered(index) % addresses), port)
    })
}

/// As [`peers`], on the ports that TCP is answered on.
pub(super) fn tcp_peers(
    addresses: u32,
    first: u32,
    count: u32,
) -> impl Iterator<Item = SocketAddrV4> {
    (first..first + count).map(move |index| {
        let port = TCP_PORTS.start() + u16::try_from(index % 16).unwrap_or(0);
        SocketAddrV4::new(address(scattered(index) % addresses), port)
    })
}

/// Knuth's multiplicative hash.
fn scattered(index: u32) -> u32 {
    index.wrapping_mul(2_654_435_761) >> 7
}

/// A policy for the worker's cgroup, with `identities` of others beside.
pub(super) fn policy(addresses: u32, identities: u32) -> String {
    let mut text = String::from("[zones.peers]\naddresses = [\n");
    for index in 0..addresses {
        // Writing to a `String` cannot fail.
        writeln!(text, "\"{}\",", address(index)).ok();
    }
    write!(
        text,
        "]\n[roles.worker]\n[[roles.worker.egress]]\nzones = [\"peers\"]\n\
         ports = [\"{}-{}/tcp\", \"{}-{}/udp\"]\n",
        ALLOWED_TCP_PORTS.start(),
        ALLOWED_TCP_PORTS.end(),
        UDP_PORTS.start(),
        UDP_PORTS.end()
    )
    .ok();
    let mut identity = |name: &str| {
        write!(
            text,
            "[identities.{name}]\nclass = \"agent\"\nowner = \"bench@example.com\"\n\
             purpose = \"be measured\"\nenvironment = \"bench\"\nroles = [\"worker\"]\n\
             match = [{{ cgroup = \"/{name}\" }}]\n"
        )
        .ok();
    };
    identity("worker");
    for number in 1..identities {
        identity(&format!("other-{number}"));
    }
    text
}

/// The same for nftables: `cgroup` is the path that its user space looks up, `level` its depth.
pub(super) fn ruleset(addresses: u32, cgroup: &str, level: usize) -> String {
    let elements: Vec<String> = (0..addresses)
        .map(|index| address(index).to_string())
        .collect();
    let who = format!("socket cgroupv2 level {level} \"{cgroup}\"");
    format!(
        "table inet bench {{\n\
         set peers {{ type ipv4_addr; elements = {{ {} }}; }}\n\
         chain out {{\n type filter hook output priority 0; policy accept;\n\
         ct state established,related accept\n\
         {who} ip daddr @peers tcp dport {}-{} accept\n\
         {who} ip daddr @peers udp dport {}-{} accept\n\
         {who} drop\n }}\n\
         chain in {{\n type filter hook input priority 0; policy accept;\n\
         ct state established,related accept\n{who} drop\n }}\n}}\n",
        elements.join(", "),
        ALLOWED_TCP_PORTS.start(),
        ALLOWED_TCP_PORTS.end(),
        UDP_PORTS.start(),
        UDP_PORTS.end(),
    )
}
