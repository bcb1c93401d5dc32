//! The result of the measurements of a store, as data and as tables.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::amplification::Case;
use super::checkpoint::{Checkpoints, Latencies};
use super::contents::Contents;
use super::files::{self, Size};
use super::large::{self, Large, Place};
use super::start::Starts;
use crate::bytes::{self, Bytes};
use crate::stats::{Summary, percent};

/// The whole report; its JSON form is the output.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine, versions, and how it was measured.
    pub(super) settings: BTreeMap<&'static str, Value>,
    pub(super) files: Vec<Size>,
    pub(super) start: Option<Starts>,
    pub(super) checkpoint: Option<Checkpoints>,
    pub(super) large: Option<Large>,
    pub(super) amplification: Vec<Case>,
    pub(super) memory: Option<Contents>,
}

impl Report {
    pub(super) fn new(settings: BTreeMap<&'static str, Value>) -> Self {
        Self {
            settings,
            files: Vec::new(),
            start: None,
            checkpoint: None,
            large: None,
            amplification: Vec::new(),
            memory: None,
        }
    }

    /// The tables of each part that was measured.
    pub(super) fn tables(&self) -> String {
        let [latencies, bytes] = self.checkpoint.as_ref().map_or([None, None], |checkpoint| {
            [Some(latency_table(checkpoint)), Some(bytes_table(checkpoint))]
        });
        let tables = [
            (!self.files.is_empty()).then(|| files_table(&self.files)),
            latencies,
            bytes,
            self.start.as_ref().map(start_table),
            self.large.as_ref().map(large_table),
            (!self.amplification.is_empty()).then(|| amplification_table(&self.amplification)),
            self.memory.as_ref().map(memory_table),
        ];
        let mut texts: Vec<_> = tables.into_iter().flatten().map(|t| t.to_string()).collect();
        let stopped = self.memory.as_ref().and_then(|memory| memory.stopped.as_ref());
        texts.extend(stopped.map(|why| format!("memory: not all contents were written: {why}")));
        texts.join("\n")
    }
}

/// Rates, and in brackets in percent of those with the fewest files.
fn files_table(sizes: &[Size]) -> Table {
    let sized = sizes.iter().map(|size| format!("{} files", size.files));
    let mut table = table(["operations per second".to_owned()].into_iter().chain(sized));
    for op in files::Op::ALL {
        let rate = |size: &Size| size.rates.get(&op).map(|rate| rate.median);
        let base = sizes.first().and_then(rate);
        let cells = sizes.iter().map(|size| compared(rate(size), base));
        table.add_row([op.name().to_owned()].into_iter().chain(cells));
    }
    let mut row = |what: &str, cell: fn(&Size) -> String| {
        table.add_row([what.to_owned()].into_iter().chain(sizes.iter().map(cell)));
    };
    row("resident memory", |size| size.memory.resident.to_string());
    row("at most", |size| size.memory.peak.to_string());
    row("seconds to come here", |size| format!("{:.1}", size.fill_seconds));
    right(table)
}

/// A rate, and what it is in percent of `base`.
fn compared(rate: Option<f64>, base: Option<f64>) -> String {
    let Some(rate) = rate else { return "–".to_owned() };
    match base.and_then(|base| percent(rate, base)) {
        Some(percent) => format!("{rate:.0} ({percent} %)"),
        None => format!("{rate:.0}"),
    }
}

fn latency_table(checkpoint: &Checkpoints) -> Table {
    let title = format!("latency in ms, {} files", checkpoint.files);
    let mut table = table([title.as_str(), "operations", "50 %", "99 %", "99.9 %", "max"]);
    let mut row = |what: &str, latencies: &Latencies| {
        let Latencies { count, p50_ms, p99_ms, p999_ms, max_ms, .. } = latencies;
        let cells = [p50_ms, p99_ms, p999_ms, max_ms].map(|ms| format!("{ms:.2}"));
        table.add_row([what.to_owned(), count.to_string()].into_iter().chain(cells));
    };
    row("with a checkpoint", &checkpoint.with);
    row("the 16 after it", &checkpoint.after);
    row("without", &checkpoint.without);
    right(table)
}

fn bytes_table(checkpoint: &Checkpoints) -> Table {
    let title = format!("a checkpoint, {} files", checkpoint.files);
    let mut table = table([title.as_str(), "written by the replica", "by the disk"]);
    for cost in &checkpoint.bytes {
        let written = cost.written;
        let cells = [written.map(|it| it.replica), written.and_then(|it| it.disk)].map(spread);
        table.add_row([format!("{} files changed", cost.changed)].into_iter().chain(cells));
    }
    right(table)
}

/// The median, and in brackets the least and the most.
fn spread(bytes: Option<Summary>) -> String {
    let show = bytes::show;
    bytes.map_or_else(dash, |Summary { median, min, max, .. }| {
        format!("{} ({} – {})", show(median), show(min), show(max))
    })
}

fn start_table(starts: &Starts) -> Table {
    let title = format!("seconds, {} files", starts.files);
    let mut table = table([title.as_str(), "median", "worst"]);
    for (what, summary) in [
        ("clean stop", &starts.stop_seconds),
        ("start after it, to the first answer", &starts.clean_seconds),
        ("start after a kill", &starts.killed_seconds),
    ] {
        let cells = [summary.median, summary.max].map(|seconds| format!("{seconds:.2}"));
        table.add_row([what.to_owned()].into_iter().chain(cells));
    }
    right(table)
}

fn large_table(large: &Large) -> Table {
    let title = format!("MB/s, a file of {}", large.bytes);
    let mut table = table([title.as_str(), "local", "bftfs", "ratio"]);
    for (op, name) in [(large::Op::Write, "write and fsync"), (large::Op::Read, "read")] {
        let rate = |place| Some(large.rates.get(&op)?.get(&place)?.median);
        let (local, mount) = (rate(Place::Local), rate(Place::Mount));
        let cell = |rate: Option<f64>| rate.map_or_else(dash, |rate| format!("{:.1}", rate / 1e6));
        let ratio = mount.zip(local).map(|(mount, local)| format!("{:.2}", mount / local));
        table.add_row([name.to_owned(), cell(local), cell(mount), ratio.unwrap_or_else(dash)]);
    }
    let mut row = |what: &str, bytes: Bytes| {
        table.add_row([what.to_owned(), dash(), bytes.to_string(), dash()]);
    };
    row("resident memory with the file", large.memory.resident);
    row("at most", large.memory.peak);
    row("after it was removed", large.memory_removed.resident);
    right(table)
}

fn amplification_table(cases: &[Case]) -> Table {
    let titles =
        ["written", "by the user", "by the replica", "per byte", "by the disk", "per byte"];
    let mut table = table(titles);
    for case in cases {
        let cells = [Some(case.written.replica), case.written.disk].into_iter().flat_map(|bytes| {
            let ratio = bytes.filter(|_| case.user_bytes > 0);
            let ratio = ratio.map(|bytes| bytes.median / case.user_bytes as f64);
            let bytes = bytes.map_or_else(dash, |bytes| bytes::show(bytes.median));
            [bytes, ratio.map_or_else(dash, |ratio| format!("{ratio:.2}"))]
        });
        let user = [case.what.clone(), Bytes(case.user_bytes).to_string()];
        table.add_row(user.into_iter().chain(cells));
    }
    right(table)
}

fn memory_table(contents: &Contents) -> Table {
    let mut table = table(["contents", "resident memory", "at most"]);
    for point in &contents.points {
        let memory = [point.memory.resident, point.memory.peak].map(|bytes| bytes.to_string());
        table.add_row([point.contents.to_string()].into_iter().chain(memory));
    }
    right(table)
}

fn dash() -> String {
    "–".to_owned()
}

fn table(titles: impl IntoIterator<Item = impl Into<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(titles.into_iter().map(Into::<String>::into));
    table
}

/// Numbers to the right: all columns but the first.
fn right(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_compared_with_the_first() {
        assert_eq!(compared(Some(50.4), Some(100.0)), "50 (50 %)");
        assert_eq!(compared(Some(50.4), None), "50");
        assert_eq!(compared(None, Some(1.0)), "–");
    }

    #[test]
    fn only_what_was_measured_has_a_table() {
        let mut report = Report::new(BTreeMap::new());
        assert_eq!(report.tables(), "");
        report.memory = Some(Contents { points: Vec::new(), stopped: Some("no room".to_owned()) });
        let tables = report.tables();
        assert!(tables.contains("resident memory") && tables.contains("no room"), "{tables}");
    }
}
