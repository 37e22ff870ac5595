//! Connection records to class 4001, Network Activity.

use std::net::IpAddr;

use agentguard_common::{
    audit::{AuditEvent, EventKind, Hook},
    connection::{Address, Direction, Protocol},
    policy::NO_RULE,
    verdict::{Reason, Verdict},
};

use super::{
    ALLOWED, BLOCKED, DETECTED, FAILURE, Host, INFORMATIONAL, LOW, MEDIUM, NETWORK, SUCCESS, Text,
    limit, policy,
    schema::{
        Actor, Boundary, Classification, ConnectionInfo, Container, Endpoint, Event, File,
        Fingerprint, FirewallRule, Image, Own, OwnConnection, OwnUnmet, Process, ProtocolVersion,
        Session, Status, Traffic, User,
    },
};
use crate::audit::{
    names,
    record::{self, Ancestor, ConnectionRecord, ip_of},
    words,
};

/// The event of `record`, but for what all events share.
pub(super) fn event(record: &ConnectionRecord, host: &Host, text: &mut Text) -> Event {
    let event = &record.event;
    let (severity, action) = match event.verdict {
        Verdict::Allow => (INFORMATIONAL, ALLOWED),
        Verdict::Deny => (MEDIUM, BLOCKED),
        Verdict::WouldDeny => (LOW, DETECTED),
    };
    let status = match event.verdict {
        Verdict::Allow | Verdict::WouldDeny => SUCCESS,
        Verdict::Deny => Status {
            status_code: Some(errno(event)),
            status_detail: Some(event.reason.name().into()),
            ..FAILURE
        },
    };
    let is_span = record.count > 1 || event.kind == EventKind::Closed;
    let start = record.start.as_millisecond();
    let end = record.end.as_millisecond();
    let rule = firewall_rule(record, text);
    let (src_endpoint, dst_endpoint) = endpoints(event, host, text);
    Event {
        class: activity(event),
        severity,
        message: message(record, rule.as_ref(), text),
        status,
        action: Some(action),
        count: Some(record.count),
        start_time: is_span.then_some(start),
        end_time: is_span.then_some(end),
        duration: is_span.then_some(end - start),
        actor: Some(actor(record, text)),
        src_endpoint,
        dst_endpoint,
        connection_info: Some(connection_info(event)),
        traffic: (event.kind == EventKind::Closed).then_some(Traffic {
            bytes_out: event.bytes_out,
            bytes_in: event.bytes_in,
            packets_out: event.packets_out,
            packets_in: event.packets_in,
        }),
        firewall_rule: rule,
        policy: Some(policy(event.generation)),
        unmapped: Own::Connection(Box::new(own(record, text))).into(),
        ..Event::default()
    }
}

/// What the caller was told; of packets, what it would have been.
fn errno(event: &AuditEvent) -> &'static str {
    let is_call = matches!(event.hook, Hook::Connect | Hook::Sendmsg);
    if is_call && event.reason.is_limit() {
        "EAGAIN"
    } else {
        "EPERM"
    }
}

/// An actor of whom only the identity is known.
pub(super) fn named_actor(actor: &names::Actor, text: &mut Text) -> Actor {
    let name = text.of(&actor.name, limit::NAME);
    Actor {
        app_uid: name.clone(),
        app_name: name,
        process: None,
        user: None,
        session: None,
    }
}

fn actor(record: &ConnectionRecord, text: &mut Text) -> Actor {
    let place = record.process.place.as_deref();
    let file = record.process.exe().map(|exe| File {
        name: text.of_untrusted(&exe.file_name(), limit::NAME),
        path: text.of_untrusted(exe, limit::PATH),
        type_id: 8,
        type_name: "Executable File",
        hashes: record.process.sha256.map(|sha256| {
            [Fingerprint {
                algorithm_id: 3,
                algorithm: "SHA-256",
                value: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            }]
        }),
    });
    let name = super::escape(record.comm(), limit::NAME).text;
    Actor {
        process: Some(Process {
            pid: record.event.pid,
            name,
            file,
            container: place
                .and_then(|place| place.container.as_ref())
                .map(|found| container(found, text)),
        }),
        user: Some(User {
            uid: record.event.uid.to_string(),
        }),
        session: place.map(|place| Session {
            uid: text.of(&place.run, limit::HOST),
        }),
        ..named_actor(&record.actor, text)
    }
}

fn container(found: &record::Container, text: &mut Text) -> Container {
    Container {
        uid: text.of_untrusted(&found.id, limit::HOST),
        runtime: found.runtime,
        name: (found.name.as_ref()).map(|name| text.of_untrusted(name, limit::NAME)),
        image: (found.image.as_ref()).map(|image| Image {
            uid: text.of_untrusted(image, limit::TEXT),
        }),
    }
}

fn activity(event: &AuditEvent) -> Classification {
    let (id, name) = match (event.kind, event.verdict) {
        (EventKind::Closed, _) => (2, "Close"),
        (EventKind::Bind, _) => (7, "Listen"),
        (EventKind::Connection | EventKind::Socket, Verdict::Deny) => (5, "Refuse"),
        (EventKind::Connection | EventKind::Socket, Verdict::Allow | Verdict::WouldDeny) => {
            (1, "Open")
        }
    };
    NETWORK.activity(id, name)
}

/// Source and destination: the side that opens the flow is the source.
fn endpoints(
    event: &AuditEvent,
    host: &Host,
    text: &mut Text,
) -> (Option<Endpoint>, Option<Endpoint>) {
    let hostname = Some(text.of(&host.hostname, limit::HOST));
    if event.kind == EventKind::Socket {
        // It has no address yet.
        let here = Endpoint {
            hostname,
            ..Endpoint::default()
        };
        return (Some(here), None);
    }
    let port = |port| match event.protocol {
        Protocol::Tcp | Protocol::Udp => Some(port),
        Protocol::Icmp | Protocol::Other => None,
    };
    let is_bound = event.kind == EventKind::Bind;
    let local_ip = ip_of(event.local);
    let local = Endpoint {
        hostname,
        // Only a listener really has the unspecified address: elsewhere it is not known yet.
        ip: (is_bound || !local_ip.is_unspecified()).then_some(local_ip),
        port: port(event.local_port).filter(|port| is_bound || *port != 0),
    };
    let remote = Endpoint {
        hostname: None,
        ip: Some(ip_of(event.remote)),
        port: port(event.remote_port),
    };
    match event.direction {
        _ if is_bound => (None, Some(local)),
        Direction::Egress | Direction::Bind => (Some(local), Some(remote)),
        Direction::Ingress => (Some(remote), Some(local)),
    }
}

fn connection_info(event: &AuditEvent) -> ConnectionInfo {
    let (direction_id, direction) = match (event.kind, event.direction) {
        (EventKind::Socket, _) => (0, "Unknown"),
        (_, Direction::Egress) => (2, "Outbound"),
        (_, Direction::Ingress | Direction::Bind) => (1, "Inbound"),
    };
    let peer = match event.kind {
        EventKind::Connection | EventKind::Closed => Some(event.remote),
        EventKind::Bind => Some(event.local),
        EventKind::Socket => None,
    };
    let protocol_num = match event.protocol {
        Protocol::Tcp => Some(6),
        Protocol::Udp => Some(17),
        Protocol::Icmp if event.remote.is_v4() => Some(1),
        Protocol::Icmp => Some(58),
        Protocol::Other => None,
    };
    ConnectionInfo {
        uid: event.socket_cookie.to_string(),
        direction_id,
        direction,
        protocol_num: protocol_num.filter(|_| peer.is_some()),
        protocol_name: words::of_protocol(event.protocol),
        version: peer.map(version),
        boundary: (event.kind != EventKind::Bind)
            .then_some(peer)
            .flatten()
            .and_then(|peer| boundary(ip_of(peer))),
    }
}

fn version(address: Address) -> ProtocolVersion {
    if address.is_v4() {
        ProtocolVersion {
            protocol_ver_id: 4,
            protocol_ver: "Internet Protocol version 4 (IPv4)",
        }
    } else {
        ProtocolVersion {
            protocol_ver_id: 6,
            protocol_ver: "Internet Protocol version 6 (IPv6)",
        }
    }
}

/// How far away the other end is, where its address tells.
fn boundary(ip: IpAddr) -> Option<Boundary> {
    let is_internal = match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    let (boundary_id, boundary) = if ip.is_loopback() || ip.is_unspecified() {
        (1, "Localhost")
    } else if is_internal {
        (2, "Internal")
    } else if ip.is_multicast() {
        return None;
    } else {
        (3, "External")
    };
    Some(Boundary {
        boundary_id,
        boundary,
    })
}

/// The rule that decided; where none did, the built-in ground for a refusal.
fn firewall_rule(record: &ConnectionRecord, text: &mut Text) -> Option<FirewallRule> {
    let event = &record.event;
    let is_refusal = event.verdict != Verdict::Allow;
    if event.rule == NO_RULE && (!is_refusal || event.reason == Reason::Unrestricted) {
        return None;
    }
    let name = record.rule.as_ref().map(|rule| rule.name.as_str());
    Some(FirewallRule {
        name: text.of(name.unwrap_or(event.reason.name()), limit::NAME),
        uid: format!("{}/{}", event.generation, event.rule),
        desc: rule_source(record, text),
    })
}

/// `file:line` of the rule that decided.
fn rule_source(record: &ConnectionRecord, text: &mut Text) -> Option<String> {
    let location = &record.rule.as_ref()?.location;
    let file = text.of(&location.file.to_string_lossy(), limit::TEXT);
    Some(format!("{file}:{}", location.line))
}

fn own(record: &ConnectionRecord, text: &mut Text) -> OwnConnection {
    let event = &record.event;
    let actor = &record.actor;
    let mut short = |value: &Option<String>, limit| value.as_ref().map(|it| text.of(it, limit));
    let is_socket = event.kind == EventKind::Socket;
    let program = record.process.program.as_deref();
    let place = record.process.place.as_deref();
    OwnConnection {
        class: words::of_class(actor.class),
        owner: short(&actor.owner, limit::NAME),
        purpose: short(&actor.purpose, limit::TEXT),
        environment: short(&actor.environment, limit::HOST),
        roles: text.of(&actor.roles.join(","), limit::PATH),
        mode: actor.mode.map(words::of_mode),
        verdict: words::of_verdict(event.verdict),
        reason: event.reason.name(),
        hook: words::of_hook(event.hook),
        generation: event.generation,
        cpu: event.cpu,
        cpu_sequence: event.cpu_sequence,
        rule_source: rule_source(record, text),
        cgroup_id: event.cgroup_id,
        cgroup: place.map(|place| text.of_untrusted(&place.cgroup, limit::PATH)),
        unit: place
            .and_then(|place| place.unit.as_ref())
            .map(|unit| text.of_untrusted(unit, limit::TEXT)),
        by: words::of_rank(event.rank),
        script: program
            .and_then(|program| program.script.as_ref())
            .map(|script| text.of_untrusted(script, limit::TEXT)),
        login_uid: program.and_then(|program| program.login_uid),
        session_id: program.and_then(|program| program.session_id),
        ancestors: program.map_or_else(Vec::new, |program| {
            let ancestors = program.ancestors.iter();
            ancestors
                .map(|ancestor| of_ancestor(ancestor, text))
                .collect()
        }),
        unmet: record
            .process
            .unmet
            .iter()
            .map(|unmet| OwnUnmet {
                of: text.of(&unmet.of, limit::SHORT),
                conditions: text.of(&unmet.conditions.join(", "), limit::TEXT),
            })
            .collect(),
        socket_cookie: event.socket_cookie.to_string(),
        socket_type: is_socket.then_some(event.remote_port),
        socket_protocol: is_socket.then_some(event.local_port),
    }
}

/// `/usr/bin/bash[4711]`.
fn of_ancestor(ancestor: &Ancestor, text: &mut Text) -> String {
    let exe = ancestor.exe.as_ref();
    let exe = exe.map_or_else(
        || "?".to_owned(),
        |exe| text.of_untrusted(exe, limit::SHORT),
    );
    format!("{exe}[{}]", ancestor.pid)
}

fn message(record: &ConnectionRecord, rule: Option<&FirewallRule>, text: &mut Text) -> String {
    let event = &record.event;
    let what = match event.kind {
        EventKind::Connection => words::of_direction(event.direction),
        EventKind::Closed => "close of",
        EventKind::Bind => "listen on",
        EventKind::Socket => "creation of",
    };
    let mut message = format!(
        "{} {}: {what} {} {}",
        words::of_verdict(event.verdict),
        text.of(&record.actor.name, limit::NAME),
        words::of_protocol(event.protocol),
        words::of_target(event),
    );
    let ground = rule.map_or(event.reason.name(), |rule| rule.name.as_str());
    message.push_str(&format!(" ({ground})"));
    if record.count > 1 {
        message.push_str(&format!(", {} times", record.count));
    }
    message
}
