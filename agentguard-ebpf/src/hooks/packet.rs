//! Every packet, out and in: the authority. What the earlier hooks missed or could not know ends here.
//!
//! # Minimum kernel version
//!
//! 4.10; `bpf_sk_fullsock` and socket storage 5.2.

use agentguard_common::{
    audit::{EventKind, Hook},
    connection::{Address, Connection, Direction},
    identity::{
        AgentId, FLAG_BYTE_LIMITS, FLAG_FLOW_LIMITS, FLAG_RESTRICTED, IdentityRecord, NEVER,
    },
    policy::NO_RULE,
    verdict::{Decision, Reason, Verdict},
};
use aya_ebpf::{helpers::generated::bpf_sk_fullsock, macros::cgroup_skb, programs::SkBuffContext};

use super::{PASS, REFUSE, SOCK_STREAM};
use crate::{
    audit::{self, Subject},
    clock,
    flow::{self, Opened},
    headers::Headers,
    identity,
    limit::{self, Bytes},
    mark,
    policy::{self, Active},
    tag::{self, Origin, Tag},
    verdict::Judgement,
};

const TCP_LISTEN: u32 = 10;
const IPPROTO_TCP: u32 = 6;
/// `ETH_P_IPV6` in network byte order.
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Drops a packet without an error to its sender (Linux 5.3, `BPF_PROG_CGROUP_INET_EGRESS_RUN_ARRAY`).
const DROP: i32 = 2;

/// Bytes of headers of each further segment: IPv4, and TCP with its timestamps or UDP.
const TCP_HEADERS: u64 = 52;
const UDP_HEADERS: u64 = 28;
const MORE_OF_IPV6: u64 = 20;

#[cgroup_skb(egress)]
fn egress(context: SkBuffContext) -> i32 {
    judge(&context, Way::Out)
}

#[cgroup_skb(ingress)]
fn ingress(context: SkBuffContext) -> i32 {
    judge(&context, Way::In)
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out = 0,
    In = 1,
}

#[inline(always)]
fn judge(context: &SkBuffContext, way: Way) -> i32 {
    let Some(active) = policy::active() else {
        return PASS;
    };
    // SAFETY: the context of the running program; the helper takes a socket that is not null.
    let socket = unsafe {
        let any = (*context.skb.skb).__bindgen_anon_2.sk;
        if any.is_null() {
            any
        } else {
            bpf_sk_fullsock(any)
        }
    };
    // The kernel runs these programs for full sockets only.
    if socket.is_null() {
        return PASS;
    }
    let Some(tag) = tag::of_socket_or_new(socket.cast()) else {
        // No memory for a tag: judge by the cgroup, and let nothing restricted pass unaccounted.
        let identity = identity::of_packet(active, context.skb.skb);
        return if active.record(identity).has(FLAG_RESTRICTED) {
            REFUSE
        } else {
            PASS
        };
    };
    if tag.identity == AgentId::NONE {
        tag.identity = identity::of_packet(active, context.skb.skb);
    }
    // SAFETY: the verifier knows it as a socket and it is not null.
    let (kind, protocol, state) = unsafe { ((*socket).type_, (*socket).protocol, (*socket).state) };
    let tcp = kind == SOCK_STREAM && protocol == IPPROTO_TCP;
    let packet = Packet {
        context,
        way,
        tcp,
        listening: tcp && state == TCP_LISTEN,
    };
    let record = active.record(tag.identity);
    if way == Way::Out {
        mark::packet(context.skb.skb, &record);
    }
    if !record.has(FLAG_RESTRICTED) && record.expires_ns == NEVER {
        return packet.pass(active, &record, tag);
    }
    let headers = Headers::read(context);
    let (remote, remote_port, local_port) = match way {
        Way::Out => (
            headers.destination,
            headers.destination_port,
            headers.source_port,
        ),
        Way::In => (
            headers.source,
            headers.source_port,
            headers.destination_port,
        ),
    };
    if let Some(reason) = headers.objection {
        let decision = Decision::refuse(&record, reason, NO_RULE);
        let judgement = Judgement {
            identity: tag.identity,
            record,
            decision,
        };
        let connection = Connection {
            direction: way.direction(),
            protocol: headers.protocol,
            remote,
            remote_port,
            local_port,
        };
        return packet.refuse_or_pass(active, tag, &judgement, &connection, clock::now_ns());
    }
    let connection = Connection {
        direction: packet.opened_in(tag),
        protocol: headers.protocol,
        remote,
        remote_port,
        local_port,
    };
    // The answers to an allowed connection come in with it; what it may send is judged on the way out.
    if tcp && way == Way::In && connection.direction == Direction::Egress {
        return packet.pass(active, &record, tag);
    }
    let ends = if tag.origin == Origin::Outbound && connection.direction == Direction::Egress {
        tag::ends_outbound(tag.identity, &connection)
    } else {
        tag::ends(tag.identity, headers.protocol, remote_port, local_port)
    };
    // The clock is read only where it can matter.
    let has_time = record.expires_ns == NEVER || clock::now_ns() < record.expires_ns;
    if has_time && tag.passed[way as usize].holds(active.generation, &remote, ends) {
        return packet.pass(active, &record, tag);
    }
    let now_ns = clock::now_ns();
    let mut judgement = Judgement::of(active, tag.identity, &connection, now_ns);
    if judgement.decision.verdict != Verdict::Allow
        && judgement.decision.reason == Reason::NoRule
        && tcp
        && tag.origin == Origin::Unseen
    {
        // Nobody saw this connection open: it may be an accepted one.
        let accepted = Connection {
            direction: Direction::Ingress,
            ..connection
        };
        judgement = Judgement::of(active, tag.identity, &accepted, now_ns);
    }
    if judgement.decision.verdict != Verdict::Deny {
        tag.rule_limiter =
            limit::limiter_of_rule(active, &judgement.record, judgement.decision.rule);
        tag.passed[way as usize].remember(active.generation, &remote, ends);
    }
    packet.refuse_or_pass(active, tag, &judgement, &connection, now_ns)
}

impl Way {
    #[inline(always)]
    const fn direction(self) -> Direction {
        match self {
            Self::Out => Direction::Egress,
            Self::In => Direction::Ingress,
        }
    }

    #[inline(always)]
    const fn hook(self) -> Hook {
        match self {
            Self::Out => Hook::Egress,
            Self::In => Hook::Ingress,
        }
    }
}

/// One packet on its way through a socket.
struct Packet<'a> {
    context: &'a SkBuffContext,
    way: Way,
    /// Whether its socket is a TCP socket; a raw socket can carry TCP too.
    tcp: bool,
    /// Whether it belongs to a handshake: its socket is the listener, whose tag the accepted socket
    /// will copy.
    listening: bool,
}

impl Packet<'_> {
    /// Who opened the flow that it belongs to. Without a connection that is whoever sends it.
    #[inline(always)]
    fn opened_in(&self, tag: &Tag) -> Direction {
        if !self.tcp {
            return self.way.direction();
        }
        if self.listening || tag.origin == Origin::Inbound {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }

    /// Takes it from its limits and adds it to the flow of its socket, or drops it.
    #[inline(always)]
    fn pass(&self, active: Active, record: &IdentityRecord, tag: &mut Tag) -> i32 {
        if self.listening {
            // A client whose handshake is not answered tries again.
            return if self.way == Way::In
                && record.has(FLAG_FLOW_LIMITS)
                && !limit::has_room(active, record)
            {
                REFUSE
            } else {
                PASS
            };
        }
        // SAFETY: the context of the running program.
        let (bytes, segments, family) = unsafe {
            let skb = self.context.skb.skb;
            ((*skb).len, (*skb).gso_segs, (*skb).protocol)
        };
        let packets = u64::from(segments.max(1));
        if record.has(FLAG_BYTE_LIMITS) {
            let headers = if self.tcp { TCP_HEADERS } else { UDP_HEADERS }
                + if family == ETH_P_IPV6 {
                    MORE_OF_IPV6
                } else {
                    0
                };
            let wanted = Bytes {
                bytes: u64::from(bytes) + (packets - 1) * headers,
                packets,
                is_out: self.way == Way::Out,
            };
            if !wanted.pass(active, record, tag, clock::now_ns()) {
                // Senders take it for loss on the way, and slow down.
                return if self.way == Way::Out { DROP } else { REFUSE };
            }
        }
        flow::count(tag, self.way == Way::Out, bytes.into(), packets);
        PASS
    }

    /// Records what is new about it, and says whether it goes on.
    #[inline(always)]
    fn refuse_or_pass(
        &self,
        active: Active,
        tag: &mut Tag,
        judgement: &Judgement,
        connection: &Connection,
        now_ns: u64,
    ) -> i32 {
        match judgement.decision.verdict {
            // TCP flows are opened by `connect` and `sock_ops`: for them a pass here is a repeat.
            Verdict::Allow if self.tcp => {}
            Verdict::Allow | Verdict::Deny | Verdict::WouldDeny if self.listening => {
                let subject = Subject {
                    kind: EventKind::Connection,
                    hook: self.way.hook(),
                    direction: connection.direction,
                    protocol: connection.protocol,
                    local: Address::default(),
                    remote: connection.remote,
                    local_port: connection.local_port,
                    remote_port: connection.remote_port,
                };
                audit::record(self.context, active, judgement, Some(tag), &subject, now_ns);
            }
            Verdict::Allow | Verdict::Deny | Verdict::WouldDeny => {
                let hook = self.way.hook();
                let opened = flow::open(
                    self.context,
                    active,
                    judgement,
                    tag,
                    connection,
                    hook,
                    now_ns,
                );
                if opened != Opened::Yes {
                    return REFUSE;
                }
            }
        }
        if judgement.passes() {
            self.pass(active, &judgement.record, tag)
        } else {
            REFUSE
        }
    }
}
