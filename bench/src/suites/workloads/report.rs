//! What became of each workload.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::CellAlignment;
use serde::Serialize;
use serde_json::Value;

use super::shell::Done;
use crate::suites::table;

/// How a workload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// It came to the same on both.
    Passed,
    /// It failed, or came to something else on the mount.
    Failed,
    /// The mount does not offer what it needs.
    NotThere,
    /// This machine has not the programs that it needs.
    Missing,
}

/// One workload.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    state: State,
    /// Seconds, or how much was done in a time that was given.
    unit: &'static str,
    local: Option<f64>,
    mounted: Option<f64>,
    /// How many times as long it takes on the mount, or how many times less is done in a time.
    ratio: Option<f64>,
    note: String,
}

impl Row {
    /// One that was not done.
    pub(super) fn none(state: State, note: String) -> Self {
        Self { state, unit: "s", local: None, mounted: None, ratio: None, note }
    }

    /// One that was.
    pub(super) fn timed(state: State, note: String, local: &Done, mounted: &Done) -> Self {
        let (unit, figures) = match (local.figure, mounted.figure) {
            (Some(local), Some(mounted)) => ("MB/s", [local, mounted]),
            _ => ("s", [local.seconds, mounted.seconds]),
        };
        let ratio = if unit == "s" { figures[1] / figures[0] } else { figures[0] / figures[1] };
        let [local, mounted] = figures.map(Some);
        Self { state, unit, local, mounted, ratio: Some(ratio), note }
    }

    /// In one line.
    pub(super) fn summary(&self) -> String {
        let [local, mounted, ratio] = self.cells();
        let times = if self.ratio.is_some() {
            format!(": {local}, {mounted}, {ratio}")
        } else {
            String::new()
        };
        let first = self.note.lines().next().unwrap_or_default();
        format!("{}{times} {first}", self.state.name())
    }

    fn cells(&self) -> [String; 3] {
        let figure = |value: Option<f64>| {
            value.map_or_else(String::new, |value| format!("{value:.2} {}", self.unit))
        };
        let ratio = self.ratio.map_or_else(String::new, |ratio| format!("{ratio:.1}"));
        [figure(self.local), figure(self.mounted), ratio]
    }
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotThere => "not there",
            Self::Missing => "programs missing",
        }
    }
}

/// The whole report; its JSON form is the output.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) settings: BTreeMap<&'static str, Value>,
    pub(super) workloads: BTreeMap<&'static str, Row>,
}

impl Report {
    pub(super) fn failed(&self) -> Vec<&'static str> {
        let rows = self.workloads.iter().filter(|(_, row)| row.state == State::Failed);
        rows.map(|(name, _)| *name).collect()
    }

    pub(super) fn table(&self) -> String {
        let mut table = table(["workload", "result", "local", "mounted", "ratio", "lacks"]);
        let mut notes = String::new();
        for (name, row) in &self.workloads {
            let [local, mounted, ratio] = row.cells();
            let lacks = match row.state {
                State::NotThere | State::Missing => row.note.clone(),
                State::Passed | State::Failed => String::new(),
            };
            let state = row.state.name().to_owned();
            table.add_row([(*name).to_owned(), state, local, mounted, ratio, lacks]);
            if row.state == State::Failed {
                let _ = write!(notes, "\n{name}: {}\n", row.note);
            }
        }
        for column in 2..5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{table}\n{notes}")
    }
}
