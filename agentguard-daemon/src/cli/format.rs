//! Rows of any width as a table, as JSON or as CSV.

use clap::ValueEnum;
use serde_json::{Map, Number, Value};

use super::{Failure, print_json, printable};
use crate::history::query::Cell;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// JSON.
    Json,
    /// Comma-separated values, as RFC 4180 has them.
    Csv,
}

/// Prints `rows` below `columns`. JSON is one array of objects.
pub(super) fn print_rows(
    format: Format,
    columns: &[String],
    rows: &[Vec<Cell>],
) -> Result<(), Failure> {
    match format {
        Format::Table => {
            let texts: Vec<Vec<String>> = rows
                .iter()
                .map(|row| row.iter().map(|cell| printable(&text(cell))).collect())
                .collect();
            let width = |column: usize| {
                let cells = texts.iter().map(|row| row[column].chars().count());
                cells
                    .chain([columns[column].chars().count()])
                    .max()
                    .unwrap_or(0)
            };
            let widths: Vec<usize> = (0..columns.len()).map(width).collect();
            let print = |row: &[String]| {
                let cells = row.iter().zip(&widths);
                let cells: Vec<String> = cells
                    .map(|(cell, width)| format!("{cell:width$}"))
                    .collect();
                say!("{}", cells.join("  ").trim_end());
            };
            print(columns);
            texts.iter().for_each(|row| print(row));
            Ok(())
        }
        Format::Json => {
            let objects: Vec<Value> = rows
                .iter()
                .map(|row| {
                    let pairs = columns.iter().cloned().zip(row.iter().map(json));
                    Value::Object(pairs.collect::<Map<_, _>>())
                })
                .collect();
            print_json(&objects)
        }
        Format::Csv => {
            say!("{}", csv_line(columns));
            for row in rows {
                say!("{}", csv_line(&row.iter().map(text).collect::<Vec<_>>()));
            }
            Ok(())
        }
    }
}

/// One line of CSV.
pub(super) fn csv_line(cells: &[String]) -> String {
    let quoted = cells.iter().map(|cell| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    });
    quoted.collect::<Vec<_>>().join(",")
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Nothing => String::new(),
        Cell::Integer(number) => number.to_string(),
        Cell::Real(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
    }
}

fn json(cell: &Cell) -> Value {
    match cell {
        Cell::Nothing => Value::Null,
        Cell::Integer(number) => (*number).into(),
        Cell::Real(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        Cell::Text(text) => text.clone().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_would_break_it() {
        let cells = ["plain", "a,b", "say \"x\"", "two\nlines", ""].map(str::to_owned);
        assert_eq!(
            csv_line(&cells),
            "plain,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\","
        );
    }
}
