//! The report as a table for the terminal.

use comfy_table::{CellAlignment, Table, presets};

use super::report::{Column, Report, TOTAL, rows};
use crate::stats;

/// Draws the table: a row a phase, a column a target.
pub(crate) fn render(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header(report));
    table.add_rows(lines(report));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The row above all others.
pub(super) fn header(report: &Report) -> Vec<String> {
    ["seconds".to_owned()].into_iter().chain(report.order.clone()).collect()
}

/// The rows below it: the phases, the total, and what is known of its cost.
pub(super) fn lines(report: &Report) -> Vec<Vec<String>> {
    let mut lines: Vec<_> =
        rows().map(|row| line(report, row, |column| seconds(report, column, row))).collect();
    lines.push(line(report, "spread of total", spread));
    if report.columns.values().any(|column| column.cpu.is_some()) {
        lines.push(line(report, "CPU seconds", |c| number(c.cpu.as_ref()?.get(TOTAL), 2)));
    }
    if report.columns.values().any(|column| column.messages.is_some()) {
        lines.push(line(report, "operations", |c| number(c.operations.as_ref()?.get(TOTAL), 0)));
        lines.push(line(report, "messages per operation", |column| {
            number(column.messages_per_operation.as_ref()?.get(TOTAL), 1)
        }));
    }
    lines
}

/// One row of the table, a dash where a column has no value.
fn line(report: &Report, title: &str, value: impl Fn(&Column) -> Option<String>) -> Vec<String> {
    let values = report.columns().map(|(_, c)| value(c).unwrap_or_else(|| "–".to_owned()));
    [title.to_owned()].into_iter().chain(values).collect()
}

/// A time with its share of the baseline's: `64.480 (126 %)`.
fn seconds(report: &Report, column: &Column, row: &str) -> Option<String> {
    Some(stats::cell(*column.seconds.get(row)?, report.base(column, row)))
}

/// Least and greatest total.
fn spread(column: &Column) -> Option<String> {
    let spread = column.spread.get(TOTAL)?;
    Some(format!("{:.2} – {:.2}", spread.min, spread.max))
}

fn number(value: Option<&f64>, digits: usize) -> Option<String> {
    value.map(|value| format!("{value:.digits$}"))
}
