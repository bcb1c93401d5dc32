//! The report as tables, for the terminal and for the page.

use comfy_table::{CellAlignment, Table, presets};

use super::report::{Column, Report, TOTAL, rows};
use crate::clusters::{BFS_NR, ClusterColumn, REPLICATED};
use crate::peers::NFS_STD;
use crate::{promises, stats};

/// A table.
#[derive(Debug)]
pub(crate) struct Sheet {
    /// What is above it; empty where it is the only one.
    pub title: String,
    /// Its first row.
    pub header: Vec<String>,
    /// The others.
    pub lines: Vec<Vec<String>>,
}

/// Draws all tables, and names what is not in them.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    for sheet in sheets(report) {
        if !sheet.title.is_empty() {
            text += &format!("\n{}\n", sheet.title);
        }
        text += &draw(&sheet);
        text += "\n";
    }
    for line in missing(report) {
        text += &format!("{line}\n");
    }
    text.trim_end().to_owned()
}

fn draw(sheet: &Sheet) -> String {
    if sheet.header == promises::TITLES {
        return promises::draw(&sheet.lines);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(sheet.header.clone());
    table.add_rows(sheet.lines.clone());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// What was asked for and is not there.
pub(crate) fn missing(report: &Report) -> impl Iterator<Item = String> {
    report.missing.iter().map(|(name, why)| format!("not measured: {name}: {why}"))
}

/// All tables: one where nothing of others was measured, else the lecture's two, and more.
pub(crate) fn sheets(report: &Report) -> Vec<Sheet> {
    let all: Vec<_> = report.order.iter().map(String::as_str).collect();
    if report.promises.is_empty() {
        return vec![phases(report, "", &all, None)];
    }
    let own = |name: &str| ClusterColumn::parse(name).is_some();
    let ours: Vec<_> = all.iter().copied().filter(|name| own(name)).collect();
    let replicated = format!("{BFS_NR}{REPLICATED}");
    let mut sheets = Vec::new();
    if all.iter().any(|name| [BFS_NR, &replicated].contains(name)) {
        let title = "Against BFS-nr, the unreplicated server, of the same durability";
        sheets.push(phases(report, title, &ours, None));
    }
    if all.contains(&NFS_STD) {
        let beside: Vec<_> =
            all.iter().copied().filter(|name| own(name) || *name == NFS_STD).collect();
        let title = format!("Against NFS-std ({NFS_STD}: synchronous writes)");
        sheets.push(phases(report, &title, &beside, Some(NFS_STD)));
    }
    sheets.extend([everything(report, all[0]), ratios(report), promised(report)]);
    sheets
}

/// A row a phase, a column a target; against `base`, or each against its own.
fn phases(report: &Report, title: &str, names: &[&str], base: Option<&str>) -> Sheet {
    let columns: Vec<_> = names.iter().filter_map(|name| report.columns.get(*name)).collect();
    let header = ["seconds"].into_iter().chain(names.iter().copied()).map(str::to_owned).collect();
    let line = |title: &str, value: &dyn Fn(&Column) -> Option<String>| -> Vec<String> {
        let values = columns.iter().map(|column| value(column).unwrap_or_else(dash));
        [title.to_owned()].into_iter().chain(values).collect()
    };
    let mut lines: Vec<_> =
        rows().map(|row| line(row, &|column| seconds(report, column, row, base))).collect();
    lines.push(line("spread of total", &spread));
    if columns.iter().any(|column| column.cpu.is_some()) {
        lines.push(line("CPU seconds", &|c| number(c.cpu.as_ref()?.get(TOTAL), 2)));
    }
    if columns.iter().any(|column| column.messages.is_some()) {
        lines.push(line("operations", &|c| number(c.operations.as_ref()?.get(TOTAL), 0)));
        lines.push(line("messages per operation", &|column| {
            number(column.messages_per_operation.as_ref()?.get(TOTAL), 1)
        }));
    }
    Sheet { title: title.to_owned(), header, lines }
}

/// A row a target, a column a phase; against the first of all.
fn everything(report: &Report, first: &str) -> Sheet {
    let base = [EXT4, first].into_iter().find(|name| report.columns.contains_key(*name));
    let titles = ["seconds"].into_iter().chain(rows());
    let header = titles.chain(["spread of total", "CPU seconds", "disk flushes"]);
    let lines = report.columns().map(|(name, column)| {
        let phases = rows().map(|row| seconds(report, column, row, base));
        let cost = [
            spread(column),
            column.cpu.as_ref().and_then(|cpu| number(cpu.get(TOTAL), 2)),
            column.flushes.as_ref().and_then(|flushes| number(flushes.get(TOTAL), 0)),
        ];
        let values = phases.chain(cost).map(|value| value.unwrap_or_else(dash));
        [name.to_owned()].into_iter().chain(values).collect()
    });
    Sheet {
        title: format!("Against everything: seconds, and the share of {}", base.unwrap_or(first)),
        header: header.map(str::to_owned).collect(),
        lines: lines.collect(),
    }
}

/// The local file system's column.
const EXT4: &str = "ext4";

/// Every total against every other.
fn ratios(report: &Report) -> Sheet {
    let names = report.order.iter();
    let header = ["% of".to_owned()].into_iter().chain(names.clone().cloned()).collect();
    let line = |name: &String| {
        let ratio = |base: &String| report.ratios.get(name)?.get(base);
        let values = report.order.iter().map(|base| number(ratio(base), 0).unwrap_or_else(dash));
        [name.clone()].into_iter().chain(values).collect()
    };
    Sheet {
        title: "Against each other: total of the row in percent of the column's, medians of the \
                rounds' ratios"
            .to_owned(),
        header,
        lines: names.map(line).collect(),
    }
}

fn promised(report: &Report) -> Sheet {
    Sheet {
        title: "Like with like: what may be lost, what may be stale, and what the disk shows of it"
            .to_owned(),
        header: promises::TITLES.map(str::to_owned).to_vec(),
        lines: promises::rows(&report.order, &report.promises),
    }
}

fn dash() -> String {
    "–".to_owned()
}

/// A time with its share of the baseline's: `64.480 (126 %)`.
fn seconds(report: &Report, column: &Column, row: &str, base: Option<&str>) -> Option<String> {
    let against = match base {
        Some(base) => report.columns.get(base)?.seconds.get(row).copied(),
        None => report.base(column, row),
    };
    Some(stats::cell(*column.seconds.get(row)?, against))
}

/// Least and greatest total.
fn spread(column: &Column) -> Option<String> {
    let spread = column.spread.get(TOTAL)?;
    Some(format!("{:.2} – {:.2}", spread.min, spread.max))
}

fn number(value: Option<&f64>, digits: usize) -> Option<String> {
    value.map(|value| format!("{value:.digits$}"))
}
