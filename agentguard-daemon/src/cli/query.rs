//! `agentguard query`: the history as tables of SQL.

use clap::Args;

use super::{
    Failure, Place,
    format::{Format, print_rows},
};
use crate::history::query::{QueryError, Tables};

const HELP: &str = "\
Tables:
  flows       a row for each flow that was judged as it opened, or ended
  denials     a row for each refusal; what was over a limit, too
  identities  a row for each identity: what it did in all that is kept
  grants      a row for each time that somebody was let run as an identity
  events      a row for each record, as it is stored; rollups: sums by minute

Columns of flows: sequence, time, event, identity, class, verdict, reason, rule, direction,
protocol, address, port, program, pid, user, count, bytes_out, bytes_in, duration_ms.
The language is that of SQLite: https://www.sqlite.org/lang_select.html

Example:
  agentguard query \"SELECT identity, address, sum(count) AS n FROM denials
                    GROUP BY identity, address ORDER BY n DESC LIMIT 10\"";

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct Query {
    /// A SELECT.
    sql: String,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl Query {
    pub(super) fn run(&self, place: &Place) -> Result<(), Failure> {
        let tables = Tables::open(&place.history()?)?;
        if tables.skipped > 0 {
            eprintln!(
                "agentguard: the {} oldest days are left out: SQLite opens no more at once",
                tables.skipped
            );
        }
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        tables
            .ask(&self.sql, |names| columns = names, |row| rows.push(row))
            .map_err(|error| match error {
                QueryError::History(error) => error.into(),
                QueryError::Question(why) => Failure::Usage(why),
            })?;
        print_rows(self.output, &columns, &rows)
    }
}
