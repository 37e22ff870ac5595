//! The tag that a socket carries from creation to close: whose it is, its flow, and what was judged.

use core::ffi::c_void;

use agentguard_common::{
    cgroup::Rank,
    connection::{Address, Connection, Direction, Protocol},
    identity::{AgentId, FLAG_RESTRICTED},
    limit::LimiterRef,
    verdict::{Reason, Verdict},
};
use aya_ebpf::macros::btf_map;

use crate::{
    atomic,
    identity::Found,
    limit::{Held, REMEMBERED_PEERS},
    policy::Active,
    storage::SocketStorage,
    task::Task,
};

/// Socket → tag. Only the programs write it.
#[btf_map]
static TAGS: SocketStorage<Tag> = SocketStorage::new();

/// How a socket came to its peer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Origin {
    /// Not seen: the socket is older than the programs, or has no peer yet.
    Unseen = 0,
    /// Its own connect or send.
    Outbound = 1,
    /// Accepted.
    Inbound = 2,
}

/// The flow that a socket carries now.
#[repr(C)]
pub struct Flow {
    /// 1 while it is open. Taken by exchange, so that of all hooks that see the end one reports it.
    pub open: u64,
    /// Boot clock at its opening.
    pub opened_ns: u64,
    /// IP bytes and packets. Added to atomically, taken by exchange.
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub packets_in: u64,
    /// The other end.
    pub remote: Address,
    pub remote_port: u16,
    pub local_port: u16,
    pub direction: Direction,
    pub protocol: Protocol,
    /// How it was judged as it opened, by which rule, and in which generation. It passed, so the
    /// verdict is an allow or a would-be denial.
    pub verdict: Verdict,
    pub reason: Reason,
    pub rule: u32,
    pub reserved: u32,
    pub generation: u64,
}

/// The last judgement that let a packet of the socket pass, for one direction.
///
/// `sequence` is odd while a writer is at work, and differs before and after it. Packets of one UDP
/// socket are judged on several CPUs at once.
#[repr(C)]
pub struct Passed {
    sequence: u64,
    generation: u64,
    remote: [u64; 2],
    /// What [`ends`] packs.
    ends: u64,
}

/// What a socket carries. All zero when the kernel makes it, which is a valid value of every field;
/// only typed code writes it.
#[repr(C)]
pub struct Tag {
    /// Whose socket it is.
    pub identity: AgentId,
    /// How it came to its peer.
    pub origin: Origin,
    /// The task that last made a call judged with this tag.
    pub exec_id: u64,
    /// The facts that held for it, in which generation, and which were looked at.
    pub facts: u64,
    pub facts_generation: u64,
    pub cgroup_id: u64,
    pub pid: u32,
    pub uid: u32,
    /// When its process started, boot clock.
    pub started_ns: u64,
    pub comm: [u64; 2],
    /// Traffic class that was set, plus one; 0 for none.
    pub traffic_class: u32,
    pub rank: Rank,
    pub facts_known: u8,
    pub reserved: [u8; 2],
    /// Its flow.
    pub flow: Flow,
    /// What that counts in, and the place for the next one.
    held: [Held; 2],
    /// 1 while the socket counts as open though nobody saw its flow opening: it is older than the
    /// programs. Taken by exchange, as `flow.open`.
    pub enrolled: u64,
    /// The limiter of the rule that let it pass last.
    pub rule_limiter: LimiterRef,
    /// Where the next of `peers` goes.
    pub next_peer: u32,
    /// Which of `held` the flow counts in.
    held_at: u32,
    reserved_2: u32,
    /// Peers of an unconnected socket: what an unconnected socket went to lately.
    pub peers: [u64; REMEMBERED_PEERS],
    /// Boot clock until which it takes more than a small part of its bandwidth, out and in.
    pub paced_ns: [u64; 2],
    /// Cached judgements: packets out, packets in.
    pub passed: [Passed; 2],
}

/// The tag of a socket, if it has one.
#[inline(always)]
pub fn of_socket<'a>(socket: *mut c_void) -> Option<&'a mut Tag> {
    // SAFETY: the value lives until the socket is freed, which the running program holds off. Fields
    // that several CPUs write are only reached through `atomic`.
    TAGS.get(socket).map(|tag| unsafe { &mut *tag })
}

/// The tag of a socket, made if it has none. `None` if there is no memory for one.
#[inline(always)]
pub fn of_socket_or_new<'a>(socket: *mut c_void) -> Option<&'a mut Tag> {
    // SAFETY: as in `of_socket`.
    TAGS.get_or_create(socket).map(|tag| unsafe { &mut *tag })
}

impl Tag {
    /// What the flow counts in.
    #[inline(always)]
    pub fn held(&mut self) -> *mut Held {
        self.held_of(self.held_at)
    }

    /// What the next flow is to count in.
    #[inline(always)]
    pub fn idle_held(&mut self) -> *mut Held {
        self.held_of(self.held_at ^ 1)
    }

    /// The next flow is the flow.
    #[inline(always)]
    pub fn turn_held(&mut self) {
        self.held_at ^= 1;
    }

    #[inline(always)]
    fn held_of(&mut self, index: u32) -> *mut Held {
        // SAFETY: the mask keeps the index within; `get` would leave a panic path in the program.
        unsafe { self.held.get_unchecked_mut((index & 1) as usize) }
    }

    /// Makes the socket `caller`'s where it has no owner yet, or where `caller` is restricted: a
    /// socket that a restricted task uses is restricted from then on, whoever made it.
    #[inline(always)]
    pub fn claim(&mut self, active: Active, caller: AgentId) {
        if self.identity == AgentId::NONE
            || (self.identity != caller && active.record(caller).has(FLAG_RESTRICTED))
        {
            self.identity = caller;
        }
    }

    /// Keeps who the running task is, for events of hooks that run in any task.
    #[inline(always)]
    pub fn note_task(&mut self, active: Active, caller: &Found) {
        self.exec_id = caller.exec_id;
        self.facts = caller.facts;
        self.facts_generation = active.generation;
        self.facts_known = caller.facts_known;
        self.rank = caller.rank;
        self.pid = caller.pid;
        self.uid = caller.uid;
        self.cgroup_id = caller.cgroup_id;
        let task = Task::current();
        self.comm = task.comm();
        self.started_ns = task.started_ns();
    }
}

impl Flow {
    /// Whether the flow is open to this peer and was judged so in this generation: then one more
    /// packet or call is a plain repeat.
    #[inline(always)]
    pub fn continues(&self, active: Active, connection: &Connection, verdict: Verdict) -> bool {
        self.open == 1
            && words(&self.remote) == words(&connection.remote)
            && self.remote_port == connection.remote_port
            && self.protocol as u8 == connection.protocol as u8
            && self.verdict as u8 == verdict as u8
            && self.generation == active.generation
    }
}

impl Passed {
    /// Whether just this was let pass in this generation.
    ///
    /// The order of the reads holds on x86-64 only; elsewhere every packet is judged afresh.
    #[inline(always)]
    pub fn holds(&self, generation: u64, remote: &Address, ends: u64) -> bool {
        if !cfg!(bpf_target_arch = "x86_64") {
            return false;
        }
        // SAFETY: all of them are aligned u64 fields of a live map value.
        unsafe {
            let before = atomic::load(&raw const self.sequence);
            let [high, low] = words(remote);
            before & 1 == 0
                && atomic::load(&raw const self.generation) == generation
                && atomic::load(&raw const self.remote[0]) == high
                && atomic::load(&raw const self.remote[1]) == low
                && atomic::load(&raw const self.ends) == ends
                && atomic::load(&raw const self.sequence) == before
        }
    }

    /// Remembers that this was let pass. Gives way if another CPU is writing.
    #[inline(always)]
    pub fn remember(&mut self, generation: u64, remote: &Address, ends: u64) {
        // SAFETY: as in `holds`.
        unsafe {
            let sequence = atomic::load(&raw const self.sequence);
            if sequence & 1 == 1
                || atomic::compare_exchange(&raw mut self.sequence, sequence, sequence + 1)
                    != sequence
            {
                return;
            }
            let [high, low] = words(remote);
            atomic::store(&raw mut self.generation, generation);
            atomic::store(&raw mut self.remote[0], high);
            atomic::store(&raw mut self.remote[1], low);
            atomic::store(&raw mut self.ends, ends);
            atomic::exchange(&raw mut self.sequence, sequence + 2);
        }
    }
}

/// [`ends`] of a flow that the socket opened itself. The local port of a TCP flow has no say in its
/// verdict, and `connect()` comes before there is one.
#[inline(always)]
pub const fn ends_outbound(identity: AgentId, connection: &Connection) -> u64 {
    let local_port = match connection.protocol {
        Protocol::Tcp => 0,
        Protocol::Udp | Protocol::Icmp | Protocol::Other => connection.local_port,
    };
    ends(
        identity,
        connection.protocol,
        connection.remote_port,
        local_port,
    )
}

/// Identity, protocol and ports of a judgement in one word. Identities take 13 bits of their 24.
#[inline(always)]
pub const fn ends(identity: AgentId, protocol: Protocol, remote_port: u16, local_port: u16) -> u64 {
    (protocol as u64) << 56
        | (identity.0 as u64) << 32
        | (remote_port as u64) << 16
        | local_port as u64
}

#[inline(always)]
pub fn words(address: &Address) -> [u64; 2] {
    let bits = u128::from_ne_bytes(address.0);
    [bits as u64, (bits >> 64) as u64]
}
