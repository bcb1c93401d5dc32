//! The result of the benchmark: medians, spreads and shares, as data.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::phases::Phase;
use super::result::TreeResult;
use super::run::Sample;
use crate::clusters::{BFS_NR, REPLICATED};
use crate::promises::Promise;
use crate::stats::{Summary, median};

/// The row after the phases.
pub(crate) const TOTAL: &str = "total";

/// The whole report; its JSON form is the benchmark's output.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// By name; `order` tells how they stand in the table.
    pub columns: BTreeMap<String, Column>,
    /// The columns' names from left to right.
    pub order: Vec<String>,
    /// The peers that could not be set up, and why.
    pub missing: BTreeMap<String, String>,
    /// What each column promises, and what its disk shows of it.
    pub promises: BTreeMap<String, Promise>,
    /// Every column's total in percent of every other's: the medians of the rounds' ratios.
    pub ratios: BTreeMap<String, BTreeMap<String, f64>>,
    /// What every run left in its target.
    pub result: TreeResult,
    /// Machine, versions, and how it was measured.
    pub settings: BTreeMap<&'static str, Value>,
}

/// Medians of one target.
#[derive(Debug, Serialize)]
pub(crate) struct Column {
    /// Median seconds per phase and in total.
    #[serde(flatten)]
    pub seconds: BTreeMap<&'static str, f64>,
    /// Least, greatest and interquartile range of the same seconds.
    pub spread: BTreeMap<&'static str, Summary>,
    /// Every run's seconds.
    pub samples: BTreeMap<&'static str, Vec<f64>>,
    /// Median CPU seconds of all servers and mounts; `None` where none is known.
    pub cpu: Option<BTreeMap<&'static str, f64>>,
    /// Median protocol messages; `None` where nobody counts.
    pub messages: Option<BTreeMap<&'static str, f64>>,
    /// Median flushes of the disk, by whomever; `None` where it does not count them.
    pub flushes: Option<BTreeMap<&'static str, f64>>,
    /// Median operations that the replicas have carried out for the mount.
    pub operations: Option<BTreeMap<&'static str, f64>>,
    /// Messages per operation.
    pub messages_per_operation: Option<BTreeMap<&'static str, f64>>,
    /// The column that this one is compared with.
    pub baseline: Option<String>,
}

/// The rows of the table: the phases and the total.
pub(crate) fn rows() -> impl Iterator<Item = &'static str> {
    Phase::ALL.into_iter().map(Phase::name).chain([TOTAL])
}

impl Column {
    /// Sums up the runs of one target.
    pub(crate) fn new(samples: &[Sample]) -> Self {
        let seconds = collect(samples, |sample, phase| Some(sample.seconds[phase]));
        let seconds = seconds.unwrap_or_default();
        let cpu = collect(samples, |sample, phase| {
            sample.usage[phase].cpu.map(|time| time.as_secs_f64())
        });
        let messages = collect(samples, |sample, phase| {
            sample.usage[phase].counters.map(|counters| counters.messages as f64)
        });
        let operations = collect(samples, |sample, phase| {
            sample.usage[phase].counters.map(|counters| counters.operations as f64)
        });
        let flushes =
            collect(samples, |sample, phase| sample.flushes[phase].map(|flushes| flushes as f64));
        let (messages, operations) = (messages.map(medians), operations.map(medians));
        Self {
            spread: seconds
                .iter()
                .filter_map(|(&row, samples)| Some((row, Summary::of(samples)?)))
                .collect(),
            seconds: medians(seconds.clone()),
            samples: seconds,
            cpu: cpu.map(medians),
            flushes: flushes.map(medians),
            messages_per_operation: shares(messages.as_ref(), operations.as_ref()),
            messages,
            operations,
            baseline: None,
        }
    }
}

/// The values of every row in every run; `None` if a value is unknown.
fn collect(
    samples: &[Sample],
    value: impl Fn(&Sample, usize) -> Option<f64>,
) -> Option<BTreeMap<&'static str, Vec<f64>>> {
    let mut all: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for sample in samples {
        let mut total = 0.0;
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            let value = value(sample, index)?;
            total += value;
            all.entry(phase.name()).or_default().push(value);
        }
        all.entry(TOTAL).or_default().push(total);
    }
    Some(all)
}

fn medians(values: BTreeMap<&'static str, Vec<f64>>) -> BTreeMap<&'static str, f64> {
    values.into_iter().filter_map(|(row, values)| Some((row, median(&values)?))).collect()
}

fn shares(
    parts: Option<&BTreeMap<&'static str, f64>>,
    wholes: Option<&BTreeMap<&'static str, f64>>,
) -> Option<BTreeMap<&'static str, f64>> {
    let (parts, wholes) = parts.zip(wholes)?;
    let share = |(&row, part): (&&'static str, &f64)| {
        let whole = wholes.get(row).filter(|whole| **whole > 0.0)?;
        Some((row, part / whole))
    };
    Some(parts.iter().filter_map(share).collect())
}

impl Report {
    /// Sums up `samples`, the runs of each target of `order`.
    pub(crate) fn new(
        order: Vec<String>,
        samples: &[Vec<Sample>],
        result: TreeResult,
        settings: BTreeMap<&'static str, Value>,
    ) -> Self {
        let columns: BTreeMap<String, Column> = order
            .iter()
            .zip(samples)
            .map(|(name, samples)| {
                let baseline = baseline_of(name, &order);
                (name.clone(), Column { baseline, ..Column::new(samples) })
            })
            .collect();
        let ratios = ratios(&columns);
        let (missing, promises) = (BTreeMap::new(), BTreeMap::new());
        Self { columns, order, missing, promises, ratios, result, settings }
    }

    /// The columns from left to right.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (&str, &Column)> {
        self.order.iter().filter_map(|name| Some((name.as_str(), self.columns.get(name)?)))
    }

    /// The seconds that a row of `column` is compared with.
    pub(crate) fn base(&self, column: &Column, row: &str) -> Option<f64> {
        self.columns.get(column.baseline.as_ref()?)?.seconds.get(row).copied()
    }
}

/// Rounds are interleaved, so that a drift of the machine is in both halves of a ratio.
fn ratios(columns: &BTreeMap<String, Column>) -> BTreeMap<String, BTreeMap<String, f64>> {
    let ratio = |column: &Column, base: &Column| {
        let rounds = column.samples.get(TOTAL)?.iter().zip(base.samples.get(TOTAL)?);
        median(&rounds.map(|(total, base)| total / base * 100.0).collect::<Vec<_>>())
    };
    let against_all = |column: &Column| {
        let all = columns.iter();
        all.filter_map(|(name, base)| Some((name.clone(), ratio(column, base)?))).collect()
    };
    columns.iter().map(|(name, column)| (name.clone(), against_all(column))).collect()
}

/// BFS-nr of the same durability, or BFS-nr, or the first column.
fn baseline_of(name: &str, order: &[String]) -> Option<String> {
    let replicated = format!("{BFS_NR}{REPLICATED}");
    let same = if name.ends_with(REPLICATED) { replicated.as_str() } else { BFS_NR };
    [same, BFS_NR]
        .into_iter()
        .find_map(|wanted| order.iter().find(|name| *name == wanted))
        .or_else(|| order.first())
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Counters, Usage};
    use std::time::Duration;

    fn sample(scale: u32) -> Sample {
        let counters = Counters { messages: 29, operations: 1 };
        let usage =
            Usage { cpu: Some(Duration::from_millis(10) * scale), counters: Some(counters) };
        Sample { seconds: [f64::from(scale); 5], usage: [usage; 5], flushes: [Some(3); 5] }
    }

    #[test]
    fn a_column_holds_medians_of_phases_and_total() {
        let column = Column::new(&[sample(3), sample(1), sample(2)]);
        assert_eq!(column.seconds["mkdir"], 2.0);
        assert_eq!(column.seconds[TOTAL], 10.0);
        assert_eq!(column.spread["make"].max, 3.0);
        assert_eq!(column.samples["read"], [3.0, 1.0, 2.0]);
        assert_eq!(column.flushes.as_ref().expect("counted")[TOTAL], 15.0);
        assert!((column.cpu.expect("known")[TOTAL] - 0.1).abs() < 1e-9);
        assert_eq!(column.messages_per_operation.expect("known")["copy"], 29.0);
    }

    #[test]
    fn unknown_cpu_and_counters_stay_unknown() {
        let blank = Sample { usage: [Usage::default(); 5], ..sample(1) };
        let column = Column::new(&[sample(1), blank]);
        assert!(column.cpu.is_none() && column.messages.is_none());
        assert!(column.messages_per_operation.is_none());
    }

    #[test]
    fn ratios_are_medians_of_the_rounds_and_not_of_the_columns() {
        // The machine slows down by 10 in the third round: both columns feel it.
        let slow = Column::new(&[sample(2), sample(4), sample(60)]);
        let fast = Column::new(&[sample(1), sample(1), sample(10)]);
        let columns = BTreeMap::from([("slow".to_owned(), slow), ("fast".to_owned(), fast)]);
        let ratios = ratios(&columns);
        assert_eq!(ratios["slow"]["fast"], 400.0);
        assert_eq!(ratios["fast"]["fast"], 100.0);
    }

    #[test]
    fn the_baseline_is_bfs_nr_of_the_same_durability() {
        let order = ["strict", "nr", "nr-replicated", "ext4"].map(str::to_owned);
        let base = |name: &str, order: &[String]| baseline_of(name, order);
        assert_eq!(base("strict", &order).as_deref(), Some("nr"));
        assert_eq!(base("strict-replicated", &order).as_deref(), Some("nr-replicated"));
        assert_eq!(base("strict-replicated", &order[..2]).as_deref(), Some("nr"));
        assert_eq!(base("ext4", &order[3..]).as_deref(), Some("ext4"));
    }
}
