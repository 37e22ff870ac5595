//! Every packet, out and in: the authority. What the earlier hooks missed or could not know ends here.
//!
//! # Minimum kernel version
//!
//! 4.10; `bpf_sk_fullsock` and socket storage 5.2.

use agentguard_common::{
    audit::{EventKind, Hook},
    connection::{Address, Connection, Direction, Protocol},
    identity::{AgentId, FLAG_RESTRICTED, NEVER},
    policy::NO_RULE,
    verdict::{Decision, Reason, Verdict},
};
use aya_ebpf::{
    bindings::bpf_sock, helpers::generated::bpf_sk_fullsock, macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{PASS, REFUSE};
use crate::{
    audit::{self, Subject},
    clock, flow,
    headers::Headers,
    identity,
    policy::{self, Active},
    tag::{self, Origin, Tag},
    verdict::Judgement,
};

const TCP_LISTEN: u32 = 10;
const IPPROTO_TCP: u32 = 6;

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
    let record = active.record(tag.identity);
    if !record.has(FLAG_RESTRICTED) && record.expires_ns == NEVER {
        count(context, tag, way);
        return PASS;
    }
    let headers = match Headers::read(context) {
        Ok(headers) => headers,
        Err(reason) => {
            let decision = Decision::refuse(&record, reason, NO_RULE);
            let judgement = Judgement {
                identity: tag.identity,
                record,
                decision,
            };
            let nowhere = Connection {
                direction: way.direction(),
                protocol: Protocol::Other,
                remote: Address::default(),
                remote_port: 0,
                local_port: 0,
            };
            return refuse_or_pass(
                context,
                active,
                tag,
                way,
                &judgement,
                &nowhere,
                clock::now_ns(),
            );
        }
    };
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
    let ends = tag::ends(tag.identity, remote_port, local_port);
    let passed = &mut tag.passed[way as usize];
    if record.expires_ns == NEVER && passed.holds(active.generation, &remote, ends) {
        count(context, tag, way);
        return PASS;
    }
    let connection = Connection {
        direction: opened_in(socket, tag, way),
        protocol: headers.protocol,
        remote,
        remote_port,
        local_port,
    };
    let now_ns = clock::now_ns();
    // The answers to an allowed connection come in with it; what it may send is judged on the way out.
    if way == Way::In
        && connection.direction == Direction::Egress
        && headers.protocol == Protocol::Tcp
    {
        count(context, tag, way);
        return PASS;
    }
    let mut judgement = Judgement::of(active, tag.identity, &connection, now_ns);
    if judgement.decision.verdict != Verdict::Allow
        && judgement.decision.reason == Reason::NoRule
        && headers.protocol == Protocol::Tcp
        && tag.origin() == Origin::Unseen
    {
        // Nobody saw this connection open: it may be an accepted one.
        let accepted = Connection {
            direction: Direction::Ingress,
            ..connection
        };
        judgement = Judgement::of(active, tag.identity, &accepted, now_ns);
    }
    if judgement.decision.verdict != Verdict::Deny {
        tag.passed[way as usize].remember(active.generation, &remote, ends);
    }
    refuse_or_pass(context, active, tag, way, &judgement, &connection, now_ns)
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

/// Who opened the flow that a packet belongs to. Without a connection that is whoever sends it.
#[inline(always)]
fn opened_in(socket: *mut bpf_sock, tag: &Tag, way: Way) -> Direction {
    // SAFETY: the verifier knows it as a socket and it is not null.
    let (protocol, state) = unsafe { ((*socket).protocol, (*socket).state) };
    if protocol != IPPROTO_TCP {
        return way.direction();
    }
    if state == TCP_LISTEN || tag.origin() == Origin::Inbound {
        Direction::Ingress
    } else {
        Direction::Egress
    }
}

#[inline(always)]
fn count(context: &SkBuffContext, tag: &mut Tag, way: Way) {
    // SAFETY: the context of the running program.
    let (bytes, segments) = unsafe { ((*context.skb.skb).len, (*context.skb.skb).gso_segs) };
    flow::count(tag, way == Way::Out, bytes.into(), segments.max(1).into());
}

/// Records what is new about a packet, and says whether it goes on.
#[inline(always)]
fn refuse_or_pass(
    context: &SkBuffContext,
    active: Active,
    tag: &mut Tag,
    way: Way,
    judgement: &Judgement,
    connection: &Connection,
    now_ns: u64,
) -> i32 {
    match judgement.decision.verdict {
        // TCP flows are opened by `connect` and `sock_ops`; for them a pass here is a repeat.
        Verdict::Allow if connection.protocol == Protocol::Tcp => {}
        Verdict::Allow => {
            flow::open(
                context,
                active,
                judgement,
                tag,
                connection,
                way.hook(),
                now_ns,
            );
        }
        Verdict::Deny | Verdict::WouldDeny => {
            let subject = Subject {
                kind: EventKind::Connection,
                hook: way.hook(),
                direction: connection.direction,
                protocol: connection.protocol,
                local: Address::default(),
                remote: connection.remote,
                local_port: connection.local_port,
                remote_port: connection.remote_port,
            };
            audit::record(context, active, judgement, Some(tag), &subject, now_ns);
        }
    }
    if judgement.passes() {
        count(context, tag, way);
        PASS
    } else {
        REFUSE
    }
}
