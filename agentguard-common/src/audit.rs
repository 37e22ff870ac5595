//! The audit event as the kernel writes it to the ring buffer, and the counters beside it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::{
    cgroup::Rank,
    connection::{Address, Direction, Protocol},
    identity::AgentId,
    verdict::{Reason, Verdict},
};

/// What an event tells of.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(u8)]
pub enum EventKind {
    /// A flow was judged as it opened, or a packet of it was refused.
    Connection = 0,
    /// A flow ended: the byte, packet and duration fields are filled.
    Closed = 1,
    /// A local port was asked for.
    Bind = 2,
    /// A socket was refused at creation: `remote_port` holds its type, `local_port` its protocol.
    Socket = 3,
}

/// The kernel program that saw it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(u8)]
pub enum Hook {
    /// `cgroup/connect4`, `cgroup/connect6`.
    Connect = 0,
    /// `cgroup/sendmsg4`, `cgroup/sendmsg6`.
    Sendmsg = 1,
    /// `cgroup/bind4`, `cgroup/bind6`.
    Bind = 2,
    /// `cgroup/sock_create`.
    SockCreate = 3,
    /// `cgroup/sock_release`.
    SockRelease = 4,
    /// `cgroup_skb/egress`.
    Egress = 5,
    /// `cgroup_skb/ingress`.
    Ingress = 6,
    /// `sock_ops`.
    SockOps = 7,
}

/// [`AuditEvent::facts_known`]: the facts of the cgroup, the executable and its parent.
pub const FACTS_OF_PROCESS: u8 = 1;
/// [`AuditEvent::facts_known`]: the facts of the user.
pub const FACTS_OF_USER: u8 = 2;

/// One record of the audit ring.
///
/// `pid`, `uid`, `comm` and `cgroup_id` are of the task that made the call in `Connect`, `Sendmsg`,
/// `Bind` and `SockCreate`; elsewhere of the task that last judged the socket, since the packet and
/// release hooks run in any task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AuditEvent {
    /// Boot clock, nanoseconds.
    pub time_ns: u64,
    /// Generation that judged.
    pub generation: u64,
    /// Cgroup of the task.
    pub cgroup_id: u64,
    /// Socket cookie: the same for all events of one socket, unique within a boot.
    pub socket_cookie: u64,
    /// IP bytes sent, `Closed` only.
    pub bytes_out: u64,
    /// IP bytes received, `Closed` only.
    pub bytes_in: u64,
    /// Packets sent, after segmentation, `Closed` only.
    pub packets_out: u64,
    /// Packets received, `Closed` only.
    pub packets_in: u64,
    /// Nanoseconds from open to close, `Closed` only.
    pub duration_ns: u64,
    /// The exec of the task, see [`crate::process`]; 0 if it has none.
    pub exec_id: u64,
    /// The facts that held for the task, see [`crate::fact`].
    pub facts: u64,
    /// Number of the event among those of its identity on its CPU in this boot, from 1. Events that were
    /// not written have one, too.
    pub cpu_sequence: u64,
    /// Whom the event is accounted to: the identity whose judgement decided.
    pub identity: AgentId,
    /// The rule that decided, in `generation`.
    pub rule: u32,
    /// Process (thread group).
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// This end; unspecified where it is not known yet.
    pub local: Address,
    /// The other end.
    pub remote: Address,
    /// Name of the task as the kernel keeps it, NUL padded.
    pub comm: [u8; 16],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// What it tells of.
    pub kind: EventKind,
    /// What happened.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Who opened the flow.
    pub direction: Direction,
    /// Its protocol.
    pub protocol: Protocol,
    /// Which program saw it.
    pub hook: Hook,
    /// What made the task the identity that it was.
    pub rank: Rank,
    /// Which of `facts` were looked at: `FACTS_*` bits. 0 where another generation looked, whose bits
    /// meant other things.
    pub facts_known: u8,
    /// The CPU.
    pub cpu: u16,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Exact totals of one identity on one CPU. Only the kernel writes them; they only grow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Counters {
    /// Events that the programs wanted to write.
    pub events_produced: u64,
    /// Of those, events that found the ring full.
    pub events_dropped: u64,
    /// Of those, events that were over the budget of the identity.
    pub events_over_budget: u64,
    /// Flows judged and allowed.
    pub allowed: u64,
    /// Flows, packets, binds and sockets refused.
    pub denied: u64,
    /// What audit mode let pass.
    pub would_deny: u64,
    /// Flows closed.
    pub closed: u64,
    /// IP bytes sent by closed flows.
    pub bytes_out: u64,
    /// IP bytes received by closed flows.
    pub bytes_in: u64,
}

// Kernel and daemon are built by different compilers for different targets; these hold on both.
const _: () = {
    assert!(size_of::<AuditEvent>() == 176);
    assert!(core::mem::offset_of!(AuditEvent, local) == 112);
    assert!(core::mem::offset_of!(AuditEvent, comm) == 144);
    assert!(core::mem::offset_of!(AuditEvent, kind) == 164);
    assert!(size_of::<Counters>() == 72);
};
