use agentguard_common::executable::{END, START, transition};

use super::*;
use crate::policy::selection::{Automaton, ExecutableSet};

/// A policy that makes `/agent` identity 7, for its children too, and `/tool` identity 8 for itself
/// alone where the user is 5; whose parent is `/agent` has fact 4.
fn selection() -> Selection {
    let choice = |required, identity, inherit| Choice {
        required,
        forbidden: 0,
        identity,
        inherit,
        selector: 0,
    };
    let mut transitions = Vec::new();
    let mut next = START + 1;
    for (path, set) in [("/agent", 1), ("/tool", 2)] {
        let mut state = START;
        for &byte in path.as_bytes() {
            let key = transition(state, byte);
            let known = transitions.iter().find(|(known, _)| *known == key);
            state = match known {
                Some(&(_, state)) => state,
                None => {
                    transitions.push((key, next));
                    next += 1;
                    next - 1
                }
            };
        }
        transitions.push((transition(state, END), set));
    }
    let mut classes = [0; 256];
    for (class, byte) in (0..=127).zip(classes.iter_mut()) {
        *byte = class;
    }
    transitions.sort_unstable();
    Selection {
        facts: Vec::new(),
        users: vec![crate::policy::selection::UserFacts {
            kind: KIND_USER,
            id: 5,
            facts: 8,
        }],
        automaton: Automaton {
            classes,
            transitions,
        },
        sets: vec![
            ExecutableSet {
                own_facts: 0,
                parent_facts: 4,
                choices: vec![choice(ON_HOST, 7, true)],
            },
            ExecutableSet {
                own_facts: 0,
                parent_facts: 0,
                choices: vec![choice(8, 8, false)],
            },
        ],
        hashes: Vec::new(),
    }
}

fn execution(path: &str, parent: u64, former: u64, uid: u32) -> Execution {
    Execution {
        pid: 1,
        parent_pid: 1,
        former,
        parent,
        path: Some(path.as_bytes().into()),
        script: None,
        on_host: true,
        uid,
        gid: 0,
        login_uid: None,
        session_id: None,
        cgroup_id: 1,
        device: 0,
        inode: 0,
    }
}

fn table(executions: &[(u64, Execution)]) -> Executions {
    let mut table = Executions::default();
    for (id, execution) in executions {
        table.insert(*id, execution.clone());
    }
    table
}

#[test]
fn an_executable_gives_an_identity_that_children_keep() {
    // The shell runs the agent, the agent a shell, that one a tool: as user 5 and as another.
    let table = table(&[
        (1, execution("/sh", 0, 0, 5)),
        (2, execution("/agent", 1, 1, 5)),
        (3, execution("/sh", 2, 2, 5)),
        (4, execution("/tool", 3, 3, 5)),
        (5, execution("/tool", 3, 3, 6)),
        (6, execution("/sh", 4, 4, 5)),
    ]);
    let judged = Matcher::new(&selection()).judge_all(&table, |_| 0);
    let identity = |id: u64| judged[&id].identity;
    assert_eq!(identity(1), None);
    assert_eq!(identity(2), Some(7));
    assert_eq!(
        identity(3),
        Some(7),
        "kept over an executable that says nothing"
    );
    assert_eq!(identity(4), Some(8), "an executable of its own");
    assert_eq!(
        identity(5),
        Some(7),
        "conditions that do not hold change nothing"
    );
    assert_eq!(identity(6), None, "not inherited");
    assert_eq!(judged[&3].facts & 4, 4, "its parent is the agent");
    assert_eq!(judged[&4].facts & 4, 0);
}

#[test]
fn numbers_need_not_be_in_the_order_of_the_execs() {
    // Processes older than the programs are numbered as they are found.
    let table = table(&[
        (1, execution("/sh", 2, 2, 5)),
        (2, execution("/agent", 0, 0, 5)),
    ]);
    assert_eq!(
        Matcher::new(&selection()).judge_all(&table, |_| 0)[&1].identity,
        Some(7)
    );
}

#[test]
fn a_path_in_a_container_is_not_the_hosts() {
    let mut inside = execution("/agent", 0, 0, 5);
    inside.on_host = false;
    let judged = Matcher::new(&selection()).judge_all(&table(&[(1, inside)]), |_| 0);
    assert_eq!(judged[&1].identity, None);
}

#[test]
fn ancestors_of_running_processes_are_kept_and_loops_end() {
    let mut table = Executions::default();
    table.insert(1, execution("/init", 0, 0, 0));
    for id in 2..=KEPT as u64 + 10 {
        table.insert(id, execution("/sh", 1, 1, 0));
    }
    assert!(table.is_full());
    table.forget([3], |_| false);
    assert_eq!(table.iter().count(), KEPT_ENDED + 2);
    assert!(table.get(1).is_some() && table.get(3).is_some() && table.get(2).is_none());

    table.insert(1, execution("/init", 3, 3, 0));
    assert_eq!(table.ancestors(3).count(), 1);
    drop(Matcher::new(&selection()).judge_all(&table, |_| 0));
}

#[test]
fn a_process_that_starts_programs_for_ever_is_remembered_by_what_decides() {
    let mut table = Executions::default();
    // It was started as the agent and has run other programs since.
    table.insert(1, execution("/opt/agent", 0, 0, 0));
    let last = KEPT as u64 + 10;
    for id in 2..=last {
        table.insert(id, execution("/sh", id - 1, id - 1, 0));
    }
    assert!(table.is_full());
    let is_agent = |execution: &Execution| execution.path.as_deref() == Some(&b"/opt/agent"[..]);
    // Those that have ended lately are kept for their last events.
    for round in 0..3_u64 {
        table.forget([last + round], is_agent);
        table.insert(
            last + round + 1,
            execution("/sh", last + round, last + round, 0),
        );
    }
    assert!(table.iter().count() < KEPT_ENDED + MAX_FORMERS + 10);
    assert!(!table.is_full());
    let formers: Vec<u64> = table.formers(last + 3).collect();
    assert_eq!(formers.last(), Some(&1), "what made it the agent");
    assert_eq!(formers.first(), Some(&(last + 2)));
    assert!(table.ancestors(last + 3).count() == MAX_ANCESTORS);
}

#[test]
fn a_program_that_no_policy_asks_for_now_is_remembered_for_the_next() {
    let mut table = Executions::default();
    table.insert(1, execution("/opt/agent", 0, 0, 0));
    let last = 2 * KEPT as u64;
    // Two that start each other, for longer than all execs are kept.
    for id in 2..=last {
        let path = if id % 2 == 0 { "/sh" } else { "/env" };
        table.insert(id, execution(path, 0, id - 1, 0));
        if table.is_full() {
            table.forget([id], |_| false);
        }
    }
    table.forget([last], |_| false);
    let formers: Vec<u64> = table.formers(last).collect();
    assert_eq!(formers.last(), Some(&1));
    assert!(table.iter().count() < KEPT_ENDED + 10);
}

#[test]
fn of_many_programs_the_last_are_remembered() {
    let mut table = Executions::default();
    let last = KEPT as u64 + 10;
    for id in 1..=last {
        // All of them, again and again.
        let path = format!("/{}", id % 1_000);
        table.insert(id, execution(&path, 0, id - 1, 0));
    }
    let last_formers: Vec<u64> = table.formers(last).take(MAX_FORMERS).collect();
    assert_eq!(*Origins::new(&table).of(last), last_formers);
    // And where each was run many times, those that differ.
    let mut table = Executions::default();
    for id in 1..=last {
        let path = format!("/{}", id / 100);
        table.insert(id, execution(&path, 0, id - 1, 0));
    }
    let of_last = Origins::new(&table).of(last);
    let newest = last / 100;
    let expected = (newest - MAX_FORMERS as u64..newest).map(|run| run * 100 + 99);
    let expected = expected.chain([last - 1]).rev().take(MAX_FORMERS);
    assert_eq!(*of_last, expected.collect::<Vec<_>>());
}
