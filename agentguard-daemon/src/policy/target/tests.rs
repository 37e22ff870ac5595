use super::*;

fn parse(text: &str) -> Result<Target, String> {
    text.parse().map_err(|error: TargetError| error.to_string())
}

#[test]
fn both_families_and_all_protocols_are_read() {
    let target = |address: &str, port, protocol| Target {
        address: address.parse().unwrap(),
        port,
        protocol,
    };
    for (text, expected) in [
        ("192.0.2.7:443/tcp", target("192.0.2.7", 443, Protocol::Tcp)),
        (
            "[2001:db8::7]:53/udp",
            target("2001:db8::7", 53, Protocol::Udp),
        ),
        ("192.0.2.7/icmp", target("192.0.2.7", 0, Protocol::Icmp)),
        (
            "[2001:db8::7]/icmp",
            target("2001:db8::7", 0, Protocol::Icmp),
        ),
    ] {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn a_call_to_the_unspecified_address_reaches_the_host_itself() {
    for (text, reached) in [
        ("0.0.0.0:1/tcp", Address::LOOPBACK_V4),
        ("[::]:1/tcp", Address::LOOPBACK_V6),
    ] {
        let target = parse(text).unwrap();
        assert_eq!(target.egress().remote, reached, "{text}");
        assert_eq!(target.ingress(1).remote, address_of(target.address));
    }
}

#[test]
fn errors_say_what_to_write() {
    for (text, wanted) in [
        ("192.0.2.7:443", "`192.0.2.7:443/tcp`"),
        ("192.0.2.7:443/sctp", "write tcp, udp or icmp"),
        ("192.0.2.7/tcp", "`192.0.2.7:443/tcp`"),
        ("192.0.2.7:65536/tcp", "from 0 to 65535"),
        ("192.0.2.7:1/icmp", "`192.0.2.7/icmp`"),
        ("example.com:443/tcp", "names are not supported yet"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}
