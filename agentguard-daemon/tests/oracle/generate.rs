//! Random policies, and probes at the edges of what they name.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Dice, Direction, Identity, Net, Policy, Ports, Probe, Protocol, Rule};

/// When identities end that do, as text and in seconds since 1970.
const EXPIRY: (&str, i64) = ("2099-01-31T00:00:00Z", 4_073_500_800);
/// When identities ended that are kept for the record.
const PAST: (&str, i64) = ("2020-01-01T00:00:00Z", 1_577_836_800);

const BUILT_IN: [(&str, &[&str]); 6] = [
    ("any", &["0.0.0.0/0", "::/0"]),
    ("loopback", &["127.0.0.0/8", "::1/128"]),
    ("link-local", &["169.254.0.0/16", "fe80::/10"]),
    (
        "multicast",
        &["224.0.0.0/4", "255.255.255.255/32", "ff00::/8"],
    ),
    (
        "private",
        &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
    ),
    (
        "metadata",
        &[
            "169.254.169.254/32",
            "169.254.170.2/32",
            "100.100.100.200/32",
            "fd00:ec2::254/128",
        ],
    ),
];

/// Prefixes are cut from few addresses, so that they overlap, nest and touch.
const ANCHORS_V4: [&str; 8] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.128.0.0",
    "127.0.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "255.255.255.255",
    "192.168.255.254",
];
const ANCHORS_V6: [&str; 9] = [
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:8000::",
    "::1",
    "::",
    "fe80::1",
    "::fffe:ffff:ffff",
    "::1:0:0:0",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];
const LENGTHS_V4: [u32; 11] = [0, 1, 7, 8, 9, 15, 16, 24, 30, 31, 32];
const LENGTHS_V6: [u32; 14] = [0, 1, 3, 10, 32, 33, 64, 79, 80, 81, 95, 96, 127, 128];
const PORTS: [u16; 12] = [
    1, 2, 53, 80, 442, 443, 444, 8000, 8010, 65_533, 65_534, 65_535,
];

/// A policy with its model.
pub fn policy(dice: &mut Dice) -> Policy {
    let mut policy = Policy {
        text: String::new(),
        identities: Vec::new(),
        nets: Vec::new(),
        ports: vec![0, u16::MAX],
    };
    let mut zones: Vec<(String, Vec<Net>)> = BUILT_IN
        .iter()
        .map(|(name, nets)| {
            (
                (*name).to_owned(),
                nets.iter().map(|net| parse(net)).collect(),
            )
        })
        .collect();
    for index in 0..dice.below(6) {
        let name = format!("z{index}");
        let nets = some_nets(dice);
        line(&mut policy, &format!("[zones.{name}]"));
        line(
            &mut policy,
            &format!("addresses = {}", list(nets.iter().map(write_net))),
        );
        policy.nets.extend(&nets);
        zones.push((name, nets));
    }
    let roles: Vec<Role> = (0..1 + dice.below(5))
        .map(|index| {
            let name = format!("r{index}");
            line(&mut policy, &format!("[roles.{name}]"));
            let raw_sockets = dice.one_in(3);
            if raw_sockets {
                line(&mut policy, "raw-sockets = true");
            }
            let rules = rules(dice, &mut policy, &name, &zones);
            Role {
                name,
                raw_sockets,
                rules,
            }
        })
        .collect();
    defaults(dice, &mut policy);
    for index in 0..1 + dice.below(6) {
        identity(dice, &mut policy, index, &roles);
    }
    policy
}

struct Role {
    name: String,
    raw_sockets: bool,
    rules: Vec<Rule>,
}

fn rules(
    dice: &mut Dice,
    policy: &mut Policy,
    role: &str,
    zones: &[(String, Vec<Net>)],
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (egress, word) in [(true, "egress"), (false, "ingress")] {
        for index in 0..dice.below(6) {
            line(policy, &format!("[[roles.{role}.{word}]]"));
            let mut nets = Vec::new();
            let mut named: Vec<&str> = Vec::new();
            for _ in 0..dice.below(3) {
                let (name, held) = &zones[dice.below(zones.len())];
                if !named.contains(&name.as_str()) {
                    named.push(name);
                    nets.extend(held);
                }
            }
            if !named.is_empty() {
                let names = list(named.iter().map(|name| (*name).to_owned()));
                line(policy, &format!("zones = {names}"));
            }
            if named.is_empty() || dice.one_in(3) {
                let own = some_nets(dice);
                let written = list(own.iter().map(write_net));
                line(policy, &format!("addresses = {written}"));
                nets.extend(own);
            }
            policy.nets.extend(&nets);
            let ports = (!dice.one_in(3)).then(|| some_ports(dice, policy));
            let deny = dice.one_in(4);
            if deny {
                line(policy, "deny = true");
            }
            rules.push(Rule {
                name: format!("{role}.{word}[{index}]"),
                egress,
                deny,
                nets,
                ports,
            });
        }
    }
    rules
}

fn defaults(dice: &mut Dice, policy: &mut Policy) {
    line(policy, "[defaults]");
    for name in ["unknown", "unknown-agent"] {
        let deny = dice.one_in(2);
        let word = if deny { "deny" } else { "allow" };
        line(policy, &format!("{name} = \"{word}\""));
        policy.identities.push(Identity {
            name: name.to_owned(),
            restricted: deny,
            enforce: true,
            expires: None,
            raw_sockets: false,
            rules: Vec::new(),
        });
    }
}

fn identity(dice: &mut Dice, policy: &mut Policy, index: usize, roles: &[Role]) {
    let name = format!("i{index}");
    let class = dice.pick(&["agent", "ci", "cron", "service", "human", "unknown"]);
    let given: Vec<&Role> = roles.iter().filter(|_| dice.one_in(2)).collect();
    let enforce = !dice.one_in(4);
    let expires = dice
        .one_in(4)
        .then(|| dice.pick(&[EXPIRY, EXPIRY, EXPIRY, PAST]));
    line(policy, &format!("[identities.{name}]\nclass = \"{class}\""));
    if !given.is_empty() {
        // Written backwards: their order in the file must not matter.
        let names = list(given.iter().rev().map(|role| role.name.clone()));
        line(policy, &format!("roles = {names}"));
    }
    if !enforce {
        line(policy, "mode = \"audit\"");
    }
    if let Some((text, _)) = expires {
        line(policy, &format!("expires = {text}"));
    }
    line(policy, &format!("match = [{{ cgroup = \"/{name}\" }}]"));
    policy.identities.push(Identity {
        restricted: !given.is_empty() || !["human", "unknown"].contains(&class),
        name,
        enforce,
        expires: expires.map(|(_, seconds)| seconds),
        raw_sockets: given.iter().any(|role| role.raw_sockets),
        rules: given.iter().flat_map(|role| role.rules.clone()).collect(),
    });
}

fn some_nets(dice: &mut Dice) -> Vec<Net> {
    let mut nets: Vec<Net> = Vec::new();
    let wanted = 1 + dice.below(4);
    while nets.len() < wanted {
        let cut = if dice.one_in(2) {
            let anchor = u32::from(dice.pick(&ANCHORS_V4).parse::<Ipv4Addr>().unwrap());
            let length = dice.pick(&LENGTHS_V4);
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            let address = IpAddr::V4(Ipv4Addr::from(anchor & !host));
            Net { address, length }
        } else {
            let anchor = u128::from(dice.pick(&ANCHORS_V6).parse::<Ipv6Addr>().unwrap());
            let length = dice.pick(&LENGTHS_V6);
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            let address = IpAddr::V6(Ipv6Addr::from(anchor & !host));
            Net { address, length }
        };
        nets.push(cut);
    }
    nets
}

fn some_ports(dice: &mut Dice, policy: &mut Policy) -> Vec<Ports> {
    let mut ports = Vec::new();
    let mut texts = Vec::new();
    for _ in 0..1 + dice.below(4) {
        let (word, protocol) = dice.pick(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]);
        let (a, b) = (dice.pick(&PORTS), dice.pick(&PORTS));
        let (text, protocol, first, last) = match dice.below(6) {
            0 => ("icmp".to_owned(), Protocol::Icmp, 0, 0),
            1 => (format!("*/{word}"), protocol, 0, u16::MAX),
            2 | 3 => (format!("{a}/{word}"), protocol, a, a),
            _ => {
                let (first, last) = (a.min(b), a.max(b));
                (format!("{first}-{last}/{word}"), protocol, first, last)
            }
        };
        policy.ports.extend([first, last]);
        texts.push(text);
        ports.push(Ports {
            protocol,
            first,
            last,
        });
    }
    line(policy, &format!("ports = {}", list(texts.into_iter())));
    ports
}

/// A probe that lies on or beside an edge of what the policy names.
pub fn probe(dice: &mut Dice, policy: &Policy) -> Probe {
    let protocols = [
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Icmp,
        Protocol::Other,
    ];
    let directions = [
        Direction::Egress,
        Direction::Egress,
        Direction::Ingress,
        Direction::Bind,
    ];
    Probe {
        direction: dice.pick(&directions),
        protocol: dice.pick(&protocols),
        remote: address(dice, policy),
        is_named: dice.one_in(2),
        remote_port: port(dice, policy),
        local_port: port(dice, policy),
        now: EXPIRY.1 + dice.pick(&[-1_000, -1, 0, 1]),
    }
}

/// An address at or beside an end of a prefix; IPv4 mapped at times.
pub fn address(dice: &mut Dice, policy: &Policy) -> IpAddr {
    if policy.nets.is_empty() || dice.one_in(16) {
        return dice.pick(&[
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()),
        ]);
    }
    let net = dice.pick(&policy.nets);
    match net.address {
        IpAddr::V4(first) => {
            let first = u32::from(first);
            let host = u32::MAX.checked_shr(net.length).unwrap_or(0);
            let last = first | host;
            let random = first | (u32::try_from(dice.next() >> 32).unwrap_or(0) & host);
            let edges = [
                first,
                last,
                first.wrapping_sub(1),
                last.wrapping_add(1),
                random,
            ];
            let chosen = Ipv4Addr::from(dice.pick(&edges));
            if dice.one_in(4) {
                IpAddr::V6(chosen.to_ipv6_mapped())
            } else {
                IpAddr::V4(chosen)
            }
        }
        IpAddr::V6(first) => {
            let first = u128::from(first);
            let host = u128::MAX.checked_shr(net.length).unwrap_or(0);
            let last = first | host;
            let random = first | ((u128::from(dice.next()) << 64 | u128::from(dice.next())) & host);
            let edges = [
                first,
                last,
                first.wrapping_sub(1),
                last.wrapping_add(1),
                random,
            ];
            IpAddr::V6(Ipv6Addr::from(dice.pick(&edges)))
        }
    }
}

fn port(dice: &mut Dice, policy: &Policy) -> u16 {
    let edge = dice.pick(&policy.ports);
    let near = [edge, edge.wrapping_sub(1), edge.wrapping_add(1)];
    dice.pick(&near)
}

fn parse(text: &str) -> Net {
    let (address, length) = text.split_once('/').unwrap();
    Net {
        address: address.parse().unwrap(),
        length: length.parse().unwrap(),
    }
}

fn write_net(net: &Net) -> String {
    format!("{}/{}", net.address, net.length)
}

fn list(items: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = items.map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

fn line(policy: &mut Policy, text: &str) {
    writeln!(policy.text, "{text}").unwrap();
}
