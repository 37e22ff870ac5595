use agentguard_common::{cgroup::Rank, connection::Address};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::audit::{
    names::Directory,
    record::{BootClock, Process},
};

fn record(identity: u32, remote: u32, verdict: Verdict, time_ns: u64) -> Box<ConnectionRecord> {
    let event = agentguard_common::audit::AuditEvent {
        time_ns,
        generation: 1,
        cgroup_id: 1,
        socket_cookie: time_ns,
        bytes_out: 10,
        bytes_in: 20,
        packets_out: 1,
        packets_in: 2,
        duration_ns: 0,
        exec_id: 0,
        facts: 0,
        identity: AgentId(identity),
        rule: 0,
        pid: 1,
        uid: 1,
        local: Address::default(),
        remote: Address(u128::from(remote).to_be_bytes()),
        comm: [0; 16],
        local_port: 40_000,
        remote_port: 443,
        kind: EventKind::Connection,
        verdict,
        reason: Reason::NoRule,
        direction: Direction::Egress,
        protocol: Protocol::Tcp,
        hook: Hook::Connect,
        rank: Rank::Unit,
        facts_known: 0,
        cpu_sequence: 1,
        cpu: 0,
        reserved: [0; 2],
    };
    let actor = Directory::default().actor(1, event.identity);
    let clock = BootClock::new(Timestamp::UNIX_EPOCH);
    Box::new(ConnectionRecord::new(
        event,
        actor,
        None,
        Process::default(),
        clock,
    ))
}

#[test]
fn repeats_come_out_once_at_the_end_of_the_window() {
    let mut fold = Fold::default();
    let mut ready = Vec::new();
    for second in 0..4 {
        let now = second * 1_000_000_000;
        fold.push(record(3, 1, Verdict::Deny, now), now, &mut ready);
    }
    assert_eq!(ready.len(), 1);
    assert_eq!(fold.next_deadline(), Some(WINDOW_NS));
    fold.flush_due(WINDOW_NS - 1, &mut ready);
    assert_eq!(ready.len(), 1);
    fold.flush_due(WINDOW_NS, &mut ready);
    assert_eq!(fold.next_deadline(), None);
    let folded = &ready[1];
    assert_eq!(
        (
            folded.count,
            folded.event.bytes_out,
            folded.event.packets_in
        ),
        (3, 30, 6)
    );
    assert_eq!((folded.start.as_second(), folded.end.as_second()), (1, 3));
}

#[test]
fn what_differs_is_not_folded() {
    let mut fold = Fold::default();
    let mut ready = Vec::new();
    let now = WINDOW_NS;
    let base = || record(3, 1, Verdict::Deny, now);
    let changes: [fn(&mut ConnectionRecord); 9] = [
        |_| {},
        |it| it.event.identity = AgentId(4),
        |it| it.event.verdict = Verdict::WouldDeny,
        |it| it.event.reason = Reason::Expired,
        |it| it.event.generation = 2,
        |it| it.event.rule = 1,
        |it| it.event.remote_port = 80,
        |it| it.event.protocol = Protocol::Udp,
        |it| it.event.hook = Hook::Egress,
    ];
    for change in changes {
        let mut record = base();
        change(&mut record);
        fold.push(record, now, &mut ready);
    }
    assert_eq!(ready.len(), 9);
    // The port that the identity itself connects from differs each time and says nothing.
    let mut record = base();
    record.event.local_port += 1;
    fold.push(record, now, &mut ready);
    assert_eq!(ready.len(), 9);
}

#[test]
fn a_full_table_ends_the_oldest_window_early() {
    let mut fold = Fold::default();
    let mut ready = Vec::new();
    let windows = u32::try_from(MAX_WINDOWS).unwrap();
    fold.push(record(3, 0, Verdict::Deny, 0), 0, &mut ready);
    fold.push(record(3, 0, Verdict::Deny, 0), 0, &mut ready);
    for remote in 1..windows {
        fold.push(record(3, remote, Verdict::Deny, 0), 0, &mut ready);
    }
    assert_eq!(ready.len(), MAX_WINDOWS);
    fold.push(record(3, windows, Verdict::Deny, 0), 0, &mut ready);
    assert_eq!(ready.len(), MAX_WINDOWS + 2);
    assert_eq!(fold.windows.len(), MAX_WINDOWS);
}

proptest! {
    #[test]
    fn no_event_is_lost_or_counted_twice(
        events in prop::collection::vec(
            (3_u32..6, 0_u32..4, prop::bool::ANY, 0_u64..4_000_000_000),
            0..400,
        )
    ) {
        let mut fold = Fold::default();
        let mut ready = Vec::new();
        let mut now = 0;
        let mut fed = HashMap::<AgentId, u64>::new();
        for (identity, remote, is_denied, pause) in events {
            now += pause;
            let verdict = if is_denied { Verdict::Deny } else { Verdict::Allow };
            fold.push(record(identity, remote, verdict, now), now, &mut ready);
            *fed.entry(AgentId(identity)).or_default() += 1;
        }
        fold.flush_all(&mut ready);
        prop_assert_eq!(fold.next_deadline(), None);
        prop_assert!(fold.windows.is_empty());
        let mut out = HashMap::<AgentId, u64>::new();
        for record in &ready {
            *out.entry(record.event.identity).or_default() += record.count;
            prop_assert_eq!(record.event.bytes_in, 20 * record.count);
        }
        prop_assert_eq!(out, fed);
    }
}
