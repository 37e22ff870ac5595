use super::{Decision, Reason, Verdict, decide};
use crate::{
    connection::{Address, Connection, Direction, Protocol},
    fact::NO_CHOICE,
    identity::{
        AgentId, FLAG_ENFORCE, FLAG_PRESENT, FLAG_RESTRICTED, IdentityRecord, NEVER, NO_DSCP,
    },
    limit::LimiterRef,
    policy::{NO_RULE, RuleEntry, RuleKey, Tables},
};

/// Class 1 is 10.0.0.1, port class 1 is port 443, port class 2 is port 9000; profile 7 may reach the
/// one at 443 over TCP and UDP, may not reach it at 9000, and takes UDP from it at 9000.
struct Few;

impl Tables for Few {
    fn address_class(&self, address: &Address) -> u32 {
        u32::from(*address == Address::from_v4([10, 0, 0, 1]))
    }

    fn port_class(&self, _: Protocol, port: u16) -> u16 {
        match port {
            443 => 1,
            9000 => 2,
            _ => 0,
        }
    }

    fn rule(&self, key: &RuleKey) -> Option<RuleEntry> {
        let RuleKey {
            profile: 7,
            address_class: 1,
            port_class,
            direction,
            protocol,
        } = *key
        else {
            return None;
        };
        match (direction, protocol, port_class) {
            (0, 0 | 1, 1) => Some(RuleEntry {
                rule: 1,
                allow: true,
            }),
            (0, 0 | 1, 2) => Some(RuleEntry {
                rule: 2,
                allow: false,
            }),
            (1, 1, 2) => Some(RuleEntry {
                rule: 3,
                allow: true,
            }),
            _ => None,
        }
    }
}

const RECORD: IdentityRecord = IdentityRecord {
    expires_ns: NEVER,
    profile: 7,
    flags: FLAG_PRESENT | FLAG_ENFORCE | FLAG_RESTRICTED,
    variants: NO_CHOICE,
    mark: 0,
    mark_mask: 0,
    traffic_class: NO_DSCP,
    limiter: AgentId(20),
    narrower: LimiterRef::NONE,
};

fn to(protocol: Protocol, host: u8, remote_port: u16, local_port: u16) -> Connection {
    Connection {
        direction: Direction::Egress,
        protocol,
        remote: Address::from_v4([10, 0, 0, host]),
        remote_port,
        local_port,
    }
}

fn judge(record: IdentityRecord, connection: Connection) -> Decision {
    decide(&Few, &record, &connection, 1_000)
}

#[test]
fn a_rule_allows_or_denies_and_is_named() {
    let allowed = judge(RECORD, to(Protocol::Tcp, 1, 443, 0));
    assert_eq!(
        allowed,
        Decision {
            verdict: Verdict::Allow,
            reason: Reason::Rule,
            rule: 1
        }
    );
    let denied = judge(RECORD, to(Protocol::Tcp, 1, 9000, 0));
    assert_eq!(
        denied,
        Decision {
            verdict: Verdict::Deny,
            reason: Reason::Rule,
            rule: 2
        }
    );
}

#[test]
fn what_no_rule_covers_is_denied_to_a_restricted_identity_only() {
    let elsewhere = to(Protocol::Tcp, 2, 443, 0);
    let denied = judge(RECORD, elsewhere);
    assert_eq!(
        denied,
        Decision {
            verdict: Verdict::Deny,
            reason: Reason::NoRule,
            rule: NO_RULE
        }
    );
    let open = IdentityRecord {
        flags: FLAG_PRESENT,
        ..RECORD
    };
    let allowed = judge(open, elsewhere);
    assert_eq!(
        (allowed.verdict, allowed.reason),
        (Verdict::Allow, Reason::Unrestricted)
    );
}

#[test]
fn audit_mode_softens_every_refusal() {
    let audit = IdentityRecord {
        flags: FLAG_PRESENT | FLAG_RESTRICTED,
        ..RECORD
    };
    assert_eq!(
        judge(audit, to(Protocol::Tcp, 1, 9000, 0)).verdict,
        Verdict::WouldDeny
    );
    assert_eq!(
        judge(audit, to(Protocol::Tcp, 2, 443, 0)).verdict,
        Verdict::WouldDeny
    );
    let ended = IdentityRecord {
        expires_ns: 1,
        ..audit
    };
    assert_eq!(
        judge(ended, to(Protocol::Tcp, 1, 443, 0)).verdict,
        Verdict::WouldDeny
    );
}

#[test]
fn an_identity_ends_at_its_deadline_and_not_before() {
    let connection = to(Protocol::Tcp, 1, 443, 0);
    let judge_at = |expires_ns| {
        judge(
            IdentityRecord {
                expires_ns,
                ..RECORD
            },
            connection,
        )
    };
    assert_eq!(judge_at(1_001).verdict, Verdict::Allow);
    assert_eq!(
        (judge_at(1_000).verdict, judge_at(1_000).reason),
        (Verdict::Deny, Reason::Expired)
    );
}

#[test]
fn a_datagram_passes_as_the_answer_to_one_that_may_come_in() {
    let answer = to(Protocol::Udp, 1, 5_000, 9000);
    assert_eq!(
        judge(RECORD, answer),
        Decision {
            verdict: Verdict::Allow,
            reason: Reason::Rule,
            rule: 3
        }
    );
    // TCP has an opening, so there the direction counts.
    assert_eq!(
        judge(RECORD, to(Protocol::Tcp, 1, 5_000, 9000)).verdict,
        Verdict::Deny
    );
    // A deny rule in the asked direction is final.
    let denied = judge(RECORD, to(Protocol::Udp, 1, 9000, 9000));
    assert_eq!(
        denied,
        Decision {
            verdict: Verdict::Deny,
            reason: Reason::Rule,
            rule: 2
        }
    );
}

#[test]
fn the_unspecified_address_is_the_host_itself() {
    assert_eq!(Address::default().destination(), Address::LOOPBACK_V6);
    assert_eq!(Address::from_v4([0; 4]).destination(), Address::LOOPBACK_V4);
    let other = Address::from_v4([0, 0, 0, 1]);
    assert_eq!(other.destination(), other);
    assert!(other.is_v4() && !Address::LOOPBACK_V6.is_v4());
    let words = [
        u32::from_ne_bytes([0x20, 1, 0xd, 0xb8]),
        0,
        0,
        u32::from_ne_bytes([0, 0, 0, 7]),
    ];
    assert_eq!(
        Address::from_words(words).0,
        [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
    );
}
