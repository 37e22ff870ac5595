//! The history as tables of SQL.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, limits::Limit, types::ValueRef};

use super::{DayFile, HistoryError, reader};

/// What can be asked, besides `events` and `rollups` themselves.
const VIEWS: &str = include_str!("views.sql");

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The history.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The question.
    #[error("{0}")]
    Question(String),
}

/// A value of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// NULL.
    Nothing,
    /// A number.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// A text.
    Text(String),
}

/// All that is kept, open for questions; `skipped` files were too many.
#[derive(Debug)]
pub struct Tables {
    connection: Connection,
    /// Files that were left out, the oldest, since SQLite opens no more at once.
    pub skipped: usize,
}

impl Tables {
    /// Opens the history in `directory`.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn open(directory: &Path) -> Result<Self, HistoryError> {
        let files = DayFile::all(directory)?;
        let connection = Connection::open_in_memory_with_flags(
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_URI
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(super::BUSY)?;
        let most = usize::try_from(connection.limit(Limit::SQLITE_LIMIT_ATTACHED)?).unwrap_or(0);
        let skipped = files.len().saturating_sub(most);
        let names: Vec<String> = (1..)
            .zip(&files[skipped..])
            .map(|(number, file)| {
                let name = format!("day{number}");
                attach(&connection, &name, file).map(|()| name)
            })
            .collect::<Result<_, _>>()?;
        for table in ["events", "rollups"] {
            let all: Vec<String> = names
                .iter()
                .map(|name| format!("SELECT * FROM {name}.{table}"))
                .collect();
            // Without any file a table of the same columns.
            let all = if all.is_empty() {
                connection.execute_batch(include_str!("schema.sql"))?;
                format!("SELECT * FROM main.{table}")
            } else {
                all.join(" UNION ALL ")
            };
            connection.execute_batch(&format!("CREATE TEMP VIEW {table} AS {all}"))?;
        }
        connection.execute_batch(VIEWS)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(Self {
            connection,
            skipped,
        })
    }

    /// Answers `question`, one statement that reads: the names of the columns first, then each row.
    ///
    /// # Errors
    ///
    /// If it is no such statement, or the history cannot be read.
    pub fn ask(
        &self,
        question: &str,
        mut columns: impl FnMut(Vec<String>),
        mut row: impl FnMut(Vec<Cell>),
    ) -> Result<(), QueryError> {
        let wrong = |error: rusqlite::Error| QueryError::Question(error.to_string());
        let mut select = self.connection.prepare(question).map_err(wrong)?;
        if !select.readonly() || select.column_count() == 0 {
            return Err(QueryError::Question(
                "only a statement that reads is answered: SELECT …".to_owned(),
            ));
        }
        columns(select.column_names().map(str::to_owned).collect());
        let count = select.column_count();
        let mut rows = select.query([]).map_err(wrong)?;
        while let Some(found) = rows.next().map_err(wrong)? {
            let cells = (0..count)
                .map(|index| found.get_ref(index).map(cell))
                .collect::<Result<_, _>>()
                .map_err(wrong)?;
            row(cells);
        }
        Ok(())
    }
}

/// As [`reader::open`] opens it.
fn attach(connection: &Connection, name: &str, file: &DayFile) -> rusqlite::Result<()> {
    let attach = |is_still| {
        connection.execute(
            &format!("ATTACH ?1 AS {name}"),
            [reader::uri(&file.path, is_still)],
        )?;
        let sql = format!("SELECT count(*) FROM {name}.sqlite_schema");
        connection.query_row(&sql, [], |_| Ok(()))
    };
    attach(false).or_else(|_| {
        // It is there if it opened and could not be read.
        drop(connection.execute(&format!("DETACH {name}"), []));
        attach(true)
    })
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Nothing,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Real(number) => Cell::Real(number),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Cell::Text(crate::audit::chain::to_hex(bytes)),
    }
}
