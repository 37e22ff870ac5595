//! News of what was lost, and of a history that fills, to class 6008, Application Error.

use super::{
    ERROR, FAILURE, HIGH, MEDIUM, Text, connection, limit,
    schema::{Event, Own, OwnFill},
};
use crate::audit::record::{EventsLost, HistoryFilling, Loss};

pub(super) fn history_filling(record: &HistoryFilling) -> Event {
    let &HistoryFilling {
        percent,
        bytes,
        most_bytes,
        ..
    } = record;
    Event {
        class: ERROR.activity(1, "General Error"),
        severity: if percent < 90 { MEDIUM } else { HIGH },
        message: format!(
            "{percent} % of the room of the history is taken by records that a sink does not have yet"
        ),
        status: FAILURE,
        unmapped: Own::Fill(OwnFill {
            percent,
            bytes,
            most_bytes,
        })
        .into(),
        ..Event::default()
    }
}

pub(super) fn events_lost(record: &EventsLost, text: &mut Text) -> Event {
    let lost = record.lost;
    let (place, message, actor) = match &record.loss {
        Loss::RingFull(actor, _) => {
            let actor = connection::named_actor(actor, text);
            let message = format!("{lost} events of {} lost: ring full", actor.app_name);
            ("ring-full", message, Some(actor))
        }
        Loss::OverBudget(actor, _) => {
            let actor = connection::named_actor(actor, text);
            let message = format!(
                "{lost} events of {} not written: over its budget",
                actor.app_name
            );
            ("over-budget", message, Some(actor))
        }
        Loss::Interrupted(actor, _) => {
            let actor = connection::named_actor(actor, text);
            let message = format!(
                "{lost} events of {} lost: the daemon ended before it had written them",
                actor.app_name
            );
            ("interrupted", message, Some(actor))
        }
        Loss::Unexplained => {
            let message = format!("{lost} events are missing, and nothing says why");
            ("unexplained", message, None)
        }
        Loss::Undecodable => {
            let message = format!("{lost} events lost: they did not decode");
            ("undecodable", message, None)
        }
        Loss::Refused(name) => {
            let name = text.of(name, limit::NAME);
            let message = format!("{lost} records refused by sink {name}");
            ("sink", message, None)
        }
        Loss::Undelivered(name) => {
            let name = text.of(name, limit::NAME);
            let message =
                format!("{lost} records gone before sink {name} had them: the history is full");
            ("history-full", message, None)
        }
        Loss::Damaged(file) => {
            let file = text.of(file, limit::PATH);
            let message = format!("{lost} records lost: {file} of the history is damaged");
            ("history-damaged", message, None)
        }
    };
    Event {
        class: ERROR.activity(1, "General Error"),
        severity: HIGH,
        message,
        status: FAILURE,
        count: Some(lost),
        actor,
        unmapped: Own::Lost {
            place,
            total: record.total,
        }
        .into(),
        ..Event::default()
    }
}
