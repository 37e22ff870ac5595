//! The words for verdicts, reasons and the rest, the same in every output.

use agentguard_common::{
    audit::{AuditEvent, EventKind, Hook},
    cgroup::Rank,
    connection::{Direction, Protocol},
    verdict::Verdict,
};

use crate::policy::compiled::{Class, Mode};

pub(crate) const fn of_verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::WouldDeny => "would-deny",
    }
}

pub(crate) const fn of_hook(hook: Hook) -> &'static str {
    match hook {
        Hook::Connect => "connect",
        Hook::Sendmsg => "sendmsg",
        Hook::Bind => "bind",
        Hook::SockCreate => "sock-create",
        Hook::SockRelease => "sock-release",
        Hook::Egress => "egress",
        Hook::Ingress => "ingress",
        Hook::SockOps => "sock-ops",
    }
}

pub(crate) const fn of_direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
        Direction::Bind => "bind",
    }
}

pub(crate) const fn of_protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
        Protocol::Other => "other",
    }
}

pub(crate) const fn of_class(class: Class) -> &'static str {
    class.name()
}

pub(crate) const fn of_mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

/// The other end of `event` for people: of a bind the local end, of a socket what was asked for.
pub(crate) fn of_target(event: &AuditEvent) -> String {
    let (address, port) = match event.kind {
        EventKind::Socket => {
            return format!("socket({},{})", event.remote_port, event.local_port);
        }
        EventKind::Bind => (event.local, event.local_port),
        EventKind::Connection | EventKind::Closed => (event.remote, event.remote_port),
    };
    let ip = super::record::ip_of(address);
    match event.protocol {
        Protocol::Tcp | Protocol::Udp => std::net::SocketAddr::new(ip, port).to_string(),
        Protocol::Icmp | Protocol::Other => ip.to_string(),
    }
}

/// What made a process an identity, in the words of the documentation.
pub(crate) const fn of_rank(rank: Rank) -> &'static str {
    match rank {
        Rank::Default => "default",
        Rank::Session => "session",
        Rank::Cgroup => "cgroup",
        Rank::Unit => "unit",
        Rank::Executable => "executable",
        Rank::Launch => "launch",
    }
}
