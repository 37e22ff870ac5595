//! Repeats within a window become one record with their count.
//!
//! The first of its kind passes at once; what follows is held, and comes out as one record when the
//! window ends. Nothing is ever dropped here: when the table is full, the oldest window ends early.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use agentguard_common::{
    audit::{EventKind, Hook},
    connection::{Address, Direction, Protocol},
    identity::AgentId,
    verdict::{Reason, Verdict},
};

use super::record::ConnectionRecord;

/// Length of a window in nanoseconds: 10 s.
pub const WINDOW_NS: u64 = 10_000_000_000;

/// Windows that can be open at once. With [`super::escape::KEPT_BYTES`] this bounds the memory of
/// held records to some 20 MB, whatever processes do.
pub const MAX_WINDOWS: usize = 16_384;

/// What makes two events repeats of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    identity: AgentId,
    generation: u64,
    rule: u32,
    kind: EventKind,
    verdict: Verdict,
    reason: Reason,
    direction: Direction,
    protocol: Protocol,
    stage: Stage,
    remote: Address,
    ports: (u16, u16),
}

/// Where in the life of a flow a hook stands: a refused call and a dropped packet are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Call,
    Packet,
    End,
}

impl Key {
    fn of(record: &ConnectionRecord) -> Self {
        let event = &record.event;
        let stage = match event.hook {
            Hook::Connect | Hook::Sendmsg | Hook::Bind | Hook::SockCreate => Stage::Call,
            Hook::Egress | Hook::Ingress => Stage::Packet,
            Hook::SockRelease | Hook::SockOps => Stage::End,
        };
        // The port of the side that opens a flow differs each time: it would undo the folding.
        let ports = match (event.kind, event.direction) {
            (EventKind::Socket, _) => (event.local_port, event.remote_port),
            (_, Direction::Egress) => (0, event.remote_port),
            (_, Direction::Ingress | Direction::Bind) => (event.local_port, 0),
        };
        Self {
            identity: event.identity,
            generation: event.generation,
            rule: event.rule,
            kind: event.kind,
            verdict: event.verdict,
            reason: event.reason,
            direction: event.direction,
            protocol: event.protocol,
            stage,
            // A listener is its own address.
            remote: match event.kind {
                EventKind::Bind => event.local,
                EventKind::Connection | EventKind::Closed | EventKind::Socket => event.remote,
            },
            ports,
        }
    }
}

/// The open windows.
#[derive(Debug, Default)]
pub struct Fold {
    /// Each open window, and what it holds besides the event that opened it.
    windows: HashMap<Key, Option<Box<ConnectionRecord>>>,
    /// End of each open window on the boot clock: all are equally long, so oldest first.
    ends: VecDeque<(u64, Key)>,
}

impl Fold {
    /// Takes a record in at `now_ns` of the boot clock, and passes on to `ready` what is ready.
    pub fn push(
        &mut self,
        record: Box<ConnectionRecord>,
        now_ns: u64,
        ready: &mut Vec<Box<ConnectionRecord>>,
    ) {
        self.flush_due(now_ns, ready);
        let key = Key::of(&record);
        match self.windows.entry(key) {
            Entry::Occupied(mut window) => match window.get_mut() {
                Some(held) => held.absorb(&record),
                empty @ None => *empty = Some(record),
            },
            Entry::Vacant(window) => {
                window.insert(None);
                self.ends.push_back((now_ns.saturating_add(WINDOW_NS), key));
                ready.push(record);
                if self.ends.len() > MAX_WINDOWS {
                    self.end_oldest(ready);
                }
            }
        }
    }

    /// Ends the windows that are over at `now_ns`.
    pub fn flush_due(&mut self, now_ns: u64, ready: &mut Vec<Box<ConnectionRecord>>) {
        while self.next_deadline().is_some_and(|end| end <= now_ns) {
            self.end_oldest(ready);
        }
    }

    /// Ends all windows.
    pub fn flush_all(&mut self, ready: &mut Vec<Box<ConnectionRecord>>) {
        while !self.ends.is_empty() {
            self.end_oldest(ready);
        }
    }

    /// When the oldest window ends, on the boot clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.ends.front().map(|(end, _)| *end)
    }

    fn end_oldest(&mut self, ready: &mut Vec<Box<ConnectionRecord>>) {
        if let Some((_, key)) = self.ends.pop_front() {
            ready.extend(self.windows.remove(&key).flatten());
        }
    }
}

#[cfg(test)]
mod tests;
