//! Where each event went, exactly: delivered, folded, held, dropped in the kernel, or undecodable.

use std::{collections::HashMap, ops::AddAssign};

use agentguard_common::{audit::Counters, identity::AgentId};

/// What the daemon did with the events of one identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    /// Events taken from the ring.
    received: u64,
    /// Records passed on.
    delivered: u64,
    /// Events that those records stand for.
    recorded: u64,
    /// The kernel's counters before this daemon.
    before: Counters,
    /// Events dropped since then that a record has told of: for lack of room, and over the budget.
    reported: [u64; 2],
    /// The same, of earlier daemons.
    untold: [u64; 2],
}

/// The accounts of all identities.
#[derive(Debug, Default)]
pub struct Accounts {
    accounts: HashMap<AgentId, Account>,
    undecodable: u64,
    undecodable_reported: u64,
}

/// The books of one identity since the daemon started. At any time
/// `produced + inherited == received + dropped + unread` and
/// `received == delivered + folded + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Balance {
    /// Events that the kernel programs wanted to write.
    pub produced: u64,
    /// Of those, events that were not written: the ring was full, or the identity over its budget.
    pub dropped: u64,
    /// Of the dropped ones, those that were over the budget of the identity.
    #[serde(default)]
    pub over_budget: u64,
    /// Events taken from the ring.
    pub received: u64,
    /// Records passed to the sinks.
    pub delivered: u64,
    /// Events that a record stands for besides its first.
    pub folded: u64,
    /// Events that wait for the end of their window.
    pub held: u64,
    /// Events still in the ring, or undecodable.
    pub unread: u64,
    /// Events received that an earlier daemon had left in the ring.
    pub inherited: u64,
}

impl AddAssign for Balance {
    fn add_assign(&mut self, other: Self) {
        self.produced += other.produced;
        self.dropped += other.dropped;
        self.over_budget += other.over_budget;
        self.received += other.received;
        self.delivered += other.delivered;
        self.folded += other.folded;
        self.held += other.held;
        self.unread += other.unread;
        self.inherited += other.inherited;
    }
}

/// Events lost since the last time somebody asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Since then.
    pub lost: u64,
    /// Since the daemon started.
    pub total: u64,
}

impl Accounts {
    /// Counts from `counters` on: those of adopted maps hold what earlier daemons accounted for, but for
    /// `untold` events that were not written for lack of room, and over the budget.
    pub fn begin(&mut self, id: AgentId, counters: Counters, untold: [u64; 2]) {
        let account = self.accounts.entry(id).or_default();
        account.before = counters;
        account.untold = untold;
    }

    /// Counts an event taken from the ring.
    pub fn receive(&mut self, id: AgentId) {
        self.accounts.entry(id).or_default().received += 1;
    }

    /// Counts a record passed on that stands for `count` events.
    pub fn deliver(&mut self, id: AgentId, count: u64) {
        let account = self.accounts.entry(id).or_default();
        account.delivered += 1;
        account.recorded += count;
    }

    /// Counts an event that did not decode: it cannot be anybody's.
    pub fn count_undecodable(&mut self) {
        self.undecodable += 1;
    }

    /// Events that did not decode.
    #[must_use]
    pub const fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// The books of `id`, with what the kernel says of it.
    #[must_use]
    pub fn balance(&self, id: AgentId, counters: &Counters) -> Balance {
        let account = self.accounts.get(&id).copied().unwrap_or_default();
        let produced = counters
            .events_produced
            .saturating_sub(account.before.events_produced);
        let over_budget = counters
            .events_over_budget
            .saturating_sub(account.before.events_over_budget);
        let full = counters
            .events_dropped
            .saturating_sub(account.before.events_dropped);
        let dropped = full + over_budget;
        Balance {
            produced,
            dropped,
            over_budget,
            received: account.received,
            delivered: account.delivered,
            folded: account.recorded - account.delivered,
            held: account.received - account.recorded,
            unread: produced.saturating_sub(dropped + account.received),
            inherited: (dropped + account.received).saturating_sub(produced),
        }
    }

    /// Events of `id` that were not written and not told of yet: for lack of room, and over its budget.
    /// Asking tells.
    pub fn take_dropped(&mut self, id: AgentId, counters: &Counters) -> [Option<Growth>; 2] {
        let balance = self.balance(id, counters);
        let account = self.accounts.entry(id).or_default();
        let [full, over] = &mut account.reported;
        let [earlier_full, earlier_over] = account.untold;
        [
            grow(full, earlier_full + balance.dropped - balance.over_budget),
            grow(over, earlier_over + balance.over_budget),
        ]
    }

    /// Undecodable events that were not told of yet, if there are any. Asking tells.
    pub fn take_undecodable(&mut self) -> Option<Growth> {
        grow(&mut self.undecodable_reported, self.undecodable)
    }
}

/// Moves `reported` up to `total`, and says by how much.
pub(super) fn grow(reported: &mut u64, total: u64) -> Option<Growth> {
    let lost = total.checked_sub(*reported).filter(|lost| *lost > 0)?;
    *reported = total;
    Some(Growth { lost, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: AgentId = AgentId(3);

    fn counters(produced: u64, dropped: u64) -> Counters {
        Counters {
            events_produced: produced,
            events_dropped: dropped,
            ..Counters::default()
        }
    }

    #[test]
    fn the_books_balance() {
        let mut accounts = Accounts::default();
        accounts.begin(ID, counters(100, 10), [0; 2]);
        for _ in 0..6 {
            accounts.receive(ID);
        }
        accounts.deliver(ID, 1);
        accounts.deliver(ID, 3);
        let balance = accounts.balance(ID, &counters(110, 12));
        assert_eq!(
            balance,
            Balance {
                produced: 10,
                dropped: 2,
                over_budget: 0,
                received: 6,
                delivered: 2,
                folded: 2,
                held: 2,
                unread: 2,
                inherited: 0,
            }
        );
    }

    #[test]
    fn events_of_an_earlier_daemon_are_told_apart() {
        let mut accounts = Accounts::default();
        accounts.begin(ID, counters(100, 0), [0; 2]);
        accounts.receive(ID);
        let balance = accounts.balance(ID, &counters(100, 0));
        assert_eq!((balance.unread, balance.inherited), (0, 1));
    }

    #[test]
    fn what_an_earlier_daemon_did_not_tell_is_told() {
        let mut accounts = Accounts::default();
        accounts.begin(ID, counters(5, 5), [3, 1]);
        let growth = |lost| Some(Growth { lost, total: lost });
        let told = accounts.take_dropped(ID, &counters(5, 5));
        assert_eq!(told, [growth(3), growth(1)]);
        assert_eq!(accounts.take_dropped(ID, &counters(5, 5)), [None, None]);
    }

    #[test]
    fn a_loss_is_told_once() {
        let mut accounts = Accounts::default();
        accounts.begin(ID, counters(5, 5), [0; 2]);
        let mut take = |counters| accounts.take_dropped(ID, &counters);
        assert_eq!(take(counters(5, 5)), [None, None]);
        let growth = Growth { lost: 2, total: 2 };
        assert_eq!(take(counters(9, 7)), [Some(growth), None]);
        assert_eq!(take(counters(9, 7)), [None, None]);
        let growth = Growth { lost: 1, total: 3 };
        assert_eq!(take(counters(9, 8)), [Some(growth), None]);
        let over = Counters {
            events_over_budget: 4,
            ..counters(13, 8)
        };
        let growth = Growth { lost: 4, total: 4 };
        assert_eq!(take(over), [None, Some(growth)]);
        assert_eq!(take(over), [None, None]);

        accounts.count_undecodable();
        let growth = Growth { lost: 1, total: 1 };
        assert_eq!(accounts.take_undecodable(), Some(growth));
        assert_eq!(accounts.take_undecodable(), None);
    }
}
