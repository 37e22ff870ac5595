//! The zones that every policy has without defining them.

use ipnet::IpNet;

use super::HostFacts;

/// Zones whose addresses are the same on every host.
const FIXED: &[(&str, &[&str])] = &[
    ("any", &["0.0.0.0/0", "::/0"]),
    ("link-local", &["169.254.0.0/16", "fe80::/10"]),
    ("loopback", &["127.0.0.0/8", "::1/128"]),
    (
        // What cloud providers serve credentials on.
        "metadata",
        &[
            "169.254.169.254/32",
            "169.254.170.2/32",
            "100.100.100.200/32",
            "fd00:ec2::254/128",
        ],
    ),
    (
        "multicast",
        &["224.0.0.0/4", "255.255.255.255/32", "ff00::/8"],
    ),
    (
        "private",
        &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
    ),
];

/// The host's own name servers.
pub(super) const RESOLVERS: &str = "resolvers";

/// Names of the built-in zones.
pub(super) fn built_in_names<'a>() -> impl Iterator<Item = &'a str> {
    FIXED
        .iter()
        .map(|&(name, _)| name)
        .chain(std::iter::once(RESOLVERS))
}

/// Whether `name` is a built-in zone.
pub(super) fn is_built_in(name: &str) -> bool {
    built_in_names().any(|built_in| built_in == name)
}

/// What the built-in zone `name` holds; empty for a name that is none.
pub(super) fn built_in_addresses(name: &str, host: &HostFacts) -> Vec<IpNet> {
    if name == RESOLVERS {
        return host
            .resolvers
            .iter()
            // One may be written in mapped form; the kernel programs see it as IPv4.
            .map(|address| IpNet::from(address.to_canonical()))
            .collect();
    }
    FIXED
        .iter()
        .filter(|&&(fixed, _)| fixed == name)
        .flat_map(|&(_, prefixes)| prefixes)
        .filter_map(|prefix| prefix.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixed_prefix_parses_and_has_no_host_bits() {
        let host = HostFacts::default();
        for &(name, prefixes) in FIXED {
            let parsed = built_in_addresses(name, &host);
            assert_eq!(parsed.len(), prefixes.len(), "{name}");
            assert!(parsed.iter().all(|net| net.trunc() == *net), "{name}");
        }
    }

    #[test]
    fn resolvers_are_those_of_the_host() {
        let host = HostFacts {
            resolvers: vec!["::ffff:192.0.2.1".parse().unwrap(), "::1".parse().unwrap()],
            ..HostFacts::default()
        };
        let expected: Vec<IpNet> =
            vec!["192.0.2.1/32".parse().unwrap(), "::1/128".parse().unwrap()];
        assert_eq!(built_in_addresses("resolvers", &host), expected);
    }
}
