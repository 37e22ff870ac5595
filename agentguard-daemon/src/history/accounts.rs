//! What records stand for, added up by identity, beside them.

use std::collections::HashMap;

use agentguard_common::identity::AgentId;
use rusqlite::{Connection, Transaction, params};

use super::HistoryError;
use crate::audit::{AuditRecord, Loss};

/// Events of one identity in this boot that records tell of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Events that were recorded, or of which it was recorded that they were lost in the daemon.
    pub recorded: u64,
    /// Events of which it was recorded that the ring was full.
    pub ring_full: u64,
    /// Events of which it was recorded that they were over the budget.
    pub over_budget: u64,
}

impl Told {
    /// What `record` tells of, and whose it is.
    pub(super) fn of(record: &AuditRecord) -> Option<(AgentId, Self)> {
        let none = Self::default();
        match record {
            AuditRecord::Connection(record) => Some((
                record.event.identity,
                Self {
                    recorded: record.count,
                    ..none
                },
            )),
            AuditRecord::EventsLost(lost) => {
                let count = lost.lost;
                let told = match &lost.loss {
                    Loss::RingFull(_, id) => (
                        *id,
                        Self {
                            ring_full: count,
                            ..none
                        },
                    ),
                    Loss::OverBudget(_, id) => (
                        *id,
                        Self {
                            over_budget: count,
                            ..none
                        },
                    ),
                    Loss::Interrupted(_, id) => (
                        *id,
                        Self {
                            recorded: count,
                            ..none
                        },
                    ),
                    Loss::Unexplained
                    | Loss::Undecodable
                    | Loss::Refused(_)
                    | Loss::Undelivered(_)
                    | Loss::Damaged(_) => return None,
                };
                Some(told)
            }
            AuditRecord::PolicyLoaded(_)
            | AuditRecord::PolicyRejected(_)
            | AuditRecord::Launched(_)
            | AuditRecord::Limit(_)
            | AuditRecord::DaemonStarted { .. }
            | AuditRecord::DaemonStopped { .. }
            | AuditRecord::HistoryFilling(_)
            | AuditRecord::RecordsRemoved(_)
            | AuditRecord::Checkpoint(_)
            | AuditRecord::SinkTest { .. } => None,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.recorded += other.recorded;
        self.ring_full += other.ring_full;
        self.over_budget += other.over_budget;
    }
}

/// Those of `boot` in one file.
pub(super) fn read(
    connection: &Connection,
    boot: &str,
) -> Result<HashMap<AgentId, Told>, HistoryError> {
    let mut select = connection.prepare(
        "SELECT identity, recorded, ring_full, over_budget FROM accounts WHERE boot = ?1",
    )?;
    let rows = select.query_map([boot], |row| {
        let told = Told {
            recorded: row.get(1)?,
            ring_full: row.get(2)?,
            over_budget: row.get(3)?,
        };
        Ok((AgentId(row.get(0)?), told))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes those of `boot`, whole.
pub(super) fn write<'a>(
    transaction: &Transaction<'_>,
    boot: &str,
    accounts: impl IntoIterator<Item = (&'a AgentId, &'a Told)>,
) -> Result<(), HistoryError> {
    let mut insert = transaction
        .prepare_cached("INSERT OR REPLACE INTO accounts VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (id, told) in accounts {
        insert.execute(params![
            boot,
            id.0,
            told.recorded,
            told.ring_full,
            told.over_budget
        ])?;
    }
    Ok(())
}
