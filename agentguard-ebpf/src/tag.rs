//! The tag that a socket carries from creation to close: whose it is, its flow, and what was judged.

use core::ffi::c_void;

use agentguard_common::{
    connection::{Address, Direction, Protocol},
    identity::{AgentId, FLAG_RESTRICTED},
};
use aya_ebpf::{
    helpers::generated::bpf_get_current_cgroup_id,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid},
    macros::btf_map,
};

use crate::{atomic, policy::Active, storage::SocketStorage};

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
    /// [`Direction`] and [`Protocol`] as numbers.
    pub direction: u8,
    pub protocol: u8,
    pub reserved: u16,
    /// The rule that allowed it, and the generation that numbered the rule.
    pub rule: u32,
    pub reserved_rule: u32,
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
    /// Identity and both ports.
    ends: u64,
}

/// What a socket carries. All zero when the kernel makes it.
#[repr(C)]
pub struct Tag {
    /// Whose socket it is.
    pub identity: AgentId,
    /// An [`Origin`] as a number.
    pub origin: u32,
    /// The task that last made a call judged with this tag.
    pub cgroup_id: u64,
    pub pid: u32,
    pub uid: u32,
    pub comm: [u8; 16],
    /// Its flow.
    pub flow: Flow,
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
    pub fn note_task(&mut self) {
        self.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        self.uid = bpf_get_current_uid_gid() as u32;
        // SAFETY: takes no argument and has no precondition.
        self.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
        if let Ok(comm) = bpf_get_current_comm() {
            self.comm = comm;
        }
    }

    /// How the socket came to its peer.
    #[inline(always)]
    pub const fn origin(&self) -> Origin {
        match self.origin {
            1 => Origin::Outbound,
            2 => Origin::Inbound,
            _ => Origin::Unseen,
        }
    }
}

impl Flow {
    /// Whether the flow is open to this peer: one more packet or call to it is a plain repeat.
    #[inline(always)]
    pub fn is_to(&self, remote: &Address, remote_port: u16, protocol: Protocol) -> bool {
        self.open == 1
            && words(&self.remote) == words(remote)
            && self.remote_port == remote_port
            && self.protocol == protocol as u8
    }

    /// Direction it was opened in.
    #[inline(always)]
    pub const fn direction(&self) -> Direction {
        if self.direction == Direction::Ingress as u8 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }

    /// Its protocol.
    #[inline(always)]
    pub const fn protocol(&self) -> Protocol {
        match self.protocol {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            2 => Protocol::Icmp,
            _ => Protocol::Other,
        }
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

/// Identity and ports of a judgement in one word.
#[inline(always)]
pub const fn ends(identity: AgentId, remote_port: u16, local_port: u16) -> u64 {
    (identity.0 as u64) << 32 | (remote_port as u64) << 16 | local_port as u64
}

#[inline(always)]
fn words(address: &Address) -> [u64; 2] {
    let bits = u128::from_ne_bytes(address.0);
    [bits as u64, (bits >> 64) as u64]
}
