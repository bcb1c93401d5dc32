//! The result of the micro benchmark, as data and as tables.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::load::Point;
use crate::promises::{self, Promise};
use crate::stats::{Summary, median};

/// What was measured: an operation, and how many of it in flight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    /// The operation's name.
    pub op: &'static str,
    /// Operations in flight.
    pub in_flight: usize,
    /// Bytes that one operation moves; 0 if none.
    pub bytes: usize,
}

/// Every round's measurement of each case on each target.
pub(crate) type Points = BTreeMap<(String, String, usize), Vec<Point>>;

/// The whole report; its JSON form is the benchmark's output.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// By target, operation and operations in flight.
    pub targets: BTreeMap<String, BTreeMap<String, BTreeMap<usize, Cell>>>,
    /// The targets' names from left to right.
    pub order: Vec<String>,
    /// Machine, versions, and how it was measured.
    pub settings: BTreeMap<&'static str, Value>,
    /// The peers that could not be set up, and why.
    pub missing: BTreeMap<String, String>,
    /// What each target promises, and what its disk shows of it.
    pub promises: BTreeMap<String, Promise>,
    /// What was measured, from top to bottom.
    #[serde(skip)]
    pub cases: Vec<Case>,
}

/// Medians over the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    /// Median latency.
    pub p50_us: f64,
    /// 99th percentile of the latency.
    pub p99_us: f64,
    /// How the rounds' median latencies lie.
    pub p50_us_spread: Summary,
    /// Throughput.
    pub ops_per_s: f64,
    /// Throughput of data, where the operation moves any.
    pub bytes_per_s: Option<f64>,
    /// CPU time per operation over all servers and mounts; `None` where none is known.
    pub cpu_us_per_op: Option<f64>,
    /// Protocol messages per operation; `None` where nobody counts.
    pub messages_per_op: Option<f64>,
}

impl Cell {
    fn new(points: &[Point], bytes: usize) -> Option<Self> {
        let middle = |value: fn(&Point) -> f64| median(&collect(points, |p| Some(value(p)))?);
        let ops_per_s = middle(|point| point.rate)?;
        Some(Self {
            p50_us: middle(|point| point.p50)?,
            p99_us: middle(|point| point.p99)?,
            p50_us_spread: Summary::of(&collect(points, |point| Some(point.p50))?)?,
            ops_per_s,
            bytes_per_s: (bytes > 0).then_some(ops_per_s * bytes as f64),
            cpu_us_per_op: collect(points, |point| point.cpu).and_then(|all| median(&all)),
            messages_per_op: collect(points, |point| point.messages).and_then(|all| median(&all)),
        })
    }
}

/// A value of every round; `None` if a round lacks it.
fn collect(points: &[Point], value: impl Fn(&Point) -> Option<f64>) -> Option<Vec<f64>> {
    points.iter().map(value).collect()
}

impl Report {
    /// Sums up the rounds.
    pub(crate) fn new(
        order: Vec<String>,
        cases: Vec<Case>,
        points: &Points,
        settings: BTreeMap<&'static str, Value>,
    ) -> Self {
        let mut targets: BTreeMap<String, BTreeMap<String, BTreeMap<usize, Cell>>> =
            BTreeMap::new();
        for ((target, op, in_flight), rounds) in points {
            let bytes = cases.iter().find(|case| case.op == op).map_or(0, |case| case.bytes);
            if let Some(cell) = Cell::new(rounds, bytes) {
                let ops = targets.entry(target.clone()).or_default();
                ops.entry(op.clone()).or_default().insert(*in_flight, cell);
            }
        }
        let (missing, promises) = (BTreeMap::new(), BTreeMap::new());
        Self { targets, order, settings, missing, promises, cases }
    }

    fn cell(&self, target: &str, case: &Case) -> Option<&Cell> {
        self.targets.get(target)?.get(case.op)?.get(&case.in_flight)
    }

    /// Latency, throughput and cost as three tables.
    pub(crate) fn tables(&self) -> String {
        let latency = self.table("median (99 %) µs", |cell| {
            Some(format!("{} ({})", short(cell.p50_us), short(cell.p99_us)))
        });
        let throughput = self.table("operations per second", |cell| match cell.bytes_per_s {
            Some(bytes) => Some(format!("{} ({} MB/s)", short(cell.ops_per_s), short(bytes / 1e6))),
            None => Some(short(cell.ops_per_s)),
        });
        let cost = self.table("CPU µs (messages) per operation", |cell| {
            let cpu = short(cell.cpu_us_per_op?);
            Some(match cell.messages_per_op {
                Some(messages) => format!("{cpu} ({messages:.1})"),
                None => cpu,
            })
        });
        let mut all = vec![latency, throughput, cost];
        if !self.promises.is_empty() {
            all.push(promises::draw(&promises::rows(&self.order, &self.promises)));
        }
        all.extend(self.missing.iter().map(|(name, why)| format!("not measured: {name}: {why}")));
        all.join("\n")
    }

    fn table(&self, title: &str, value: impl Fn(&Cell) -> Option<String>) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        let titles = [title, "in flight"].map(str::to_owned);
        table.set_header(titles.into_iter().chain(self.order.clone()));
        for case in &self.cases {
            let cells = self.order.iter().map(|target| {
                self.cell(target, case).and_then(&value).unwrap_or_else(|| "–".to_owned())
            });
            let titles = [case.op.to_owned(), case.in_flight.to_string()];
            table.add_row(titles.into_iter().chain(cells));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// About three significant digits.
fn short(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(p50: f64, cpu: Option<f64>) -> Point {
        Point { p50, p99: p50 * 2.0, rate: 1e6 / p50, cpu, messages: None }
    }

    #[test]
    fn a_cell_holds_medians_of_rounds() {
        let rounds = [3.0, 1.0, 2.0].map(|p50| point(p50, Some(p50 * 10.0)));
        let cell = Cell::new(&rounds, 4096).expect("three rounds");
        assert_eq!((cell.p50_us, cell.p99_us), (2.0, 4.0));
        assert_eq!(cell.ops_per_s, 5e5);
        assert_eq!(cell.bytes_per_s, Some(5e5 * 4096.0));
        assert_eq!(cell.cpu_us_per_op, Some(20.0));
        assert_eq!(cell.messages_per_op, None);
        assert_eq!((cell.p50_us_spread.min, cell.p50_us_spread.max), (1.0, 3.0));
    }

    #[test]
    fn cpu_that_is_not_known_in_every_round_is_not_told() {
        let cell = Cell::new(&[point(1.0, Some(1.0)), point(1.0, None)], 0).expect("two rounds");
        assert_eq!((cell.cpu_us_per_op, cell.bytes_per_s), (None, None));
        assert!(Cell::new(&[], 0).is_none());
    }
}
