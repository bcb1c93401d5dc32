//! The result of the fault measurements, as data and as tables.

use std::collections::BTreeMap;

use bftfs_adversary::Role;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::Place;
use super::away::Away;
use super::kill::Killed;
use super::lie::Sample;
use super::wiped::Wiped;
use crate::bytes::Bytes;
use crate::stats::Summary;

/// The whole report; its JSON form is the output.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine, versions, and how it was measured.
    pub settings: BTreeMap<&'static str, Value>,
    /// The primary was killed.
    pub kill: Option<Killed>,
    /// A replica was away.
    pub away: Option<Away>,
    /// A replica lost its disk.
    pub wiped: Option<Wiped>,
    /// A replica lied: by role and place.
    pub lies: BTreeMap<&'static str, BTreeMap<Place, Lies>>,
}

/// All measurements of one role in one place.
#[derive(Debug, Default, Serialize)]
pub(super) struct Lies {
    samples: Vec<Sample>,
}

impl Lies {
    fn summary(&self, value: fn(&Sample) -> f64) -> Option<Summary> {
        Summary::of(&self.samples.iter().map(value).collect::<Vec<_>>())
    }
}

impl Report {
    pub(super) fn new(settings: BTreeMap<&'static str, Value>) -> Self {
        Self { settings, kill: None, away: None, wiped: None, lies: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, role: Role, place: Place, sample: Sample) {
        let places = self.lies.entry(role.name()).or_default();
        places.entry(place).or_default().samples.push(sample);
    }

    /// A table for each part that was measured.
    pub(super) fn tables(&self) -> String {
        let tables = [
            self.kill.as_ref().map(kill_table),
            self.away.as_ref().map(away_table),
            self.wiped.as_ref().map(wiped_table),
            (!self.lies.is_empty()).then(|| self.lies_table()),
        ];
        tables.into_iter().flatten().map(|table| table.to_string()).collect::<Vec<_>>().join("\n")
    }

    fn lies_table(&self) -> Table {
        let mut table = table([
            "a replica lies",
            "from",
            "next call, ms (worst)",
            "longest pause, ms (worst)",
            "views left",
            "rate, honest",
            "lying",
            "settled",
        ]);
        for (role, places) in &self.lies {
            for (place, lies) in places {
                table.add_row(row(role, *place, lies));
            }
        }
        right(table, 2)
    }
}

fn row(role: &str, place: Place, lies: &Lies) -> Vec<String> {
    let middle = |value| lies.summary(value).map_or(f64::NAN, |summary| summary.median);
    let worst = |value| {
        lies.summary(value).map_or_else(String::new, |summary: Summary| {
            format!("{:.0} ({:.0})", summary.median, summary.max)
        })
    };
    vec![
        role.to_owned(),
        place.to_string(),
        worst(|sample| sample.resumed_ms),
        worst(|sample| sample.pause_ms),
        format!("{:.0}", middle(|sample| sample.views as f64)),
        format!("{:.0}/s", middle(|sample| sample.honest_rate)),
        format!("{:.0} %", 100.0 * middle(|sample| sample.lying_rate / sample.honest_rate)),
        format!("{:.0} %", 100.0 * middle(|sample| sample.settled_rate / sample.honest_rate)),
    ]
}

fn kill_table(killed: &Killed) -> Table {
    let title = format!("the primary is killed, {} times", killed.samples_ms.len());
    let mut table = table([title.as_str(), "median", "worst"]);
    let mut add = |what: &str, summary: &Summary| {
        let cell = |value| format!("{value:.0} ms");
        table.add_row([what.to_owned(), cell(summary.median), cell(summary.max)]);
    };
    add("until the next call is done", &killed.resumed_ms);
    add("longest pause between two calls done", &killed.pause_ms);
    right(table, 1)
}

fn away_table(away: &Away) -> Table {
    let mut table = table(["a replica comes back", "median", "worst"]);
    let (seconds, bytes) = (&away.seconds, &away.bytes_received);
    let cell = |value| format!("{value:.2} s");
    table.add_row(["until it is level".to_owned(), cell(seconds.median), cell(seconds.max)]);
    let cell = |value| format!("{:.2} MB", value / 1e6);
    table.add_row(["received until then".to_owned(), cell(bytes.median), cell(bytes.max)]);
    right(table, 1)
}

fn wiped_table(wiped: &Wiped) -> Table {
    let title = format!("a replica lost its disk, {} of state", Bytes(wiped.state_bytes));
    let mut table = table([title.as_str(), "median", "worst"]);
    let mut add = |what: &str, summary: &Summary, cell: fn(f64) -> String| {
        table.add_row([what.to_owned(), cell(summary.median), cell(summary.max)]);
    };
    let (seconds, bytes) =
        (|value| format!("{value:.2} s"), |value| format!("{:.1} MB", value / 1e6));
    add("until its state is there", &wiped.state_seconds, seconds);
    add("received until then", &wiped.state_bytes_received, bytes);
    add("until it votes again", &wiped.voting_seconds, seconds);
    add("received until then", &wiped.voting_bytes_received, bytes);
    let cell = |value| format!("{value:.0}/s");
    let rate = &wiped.load_rate;
    table.add_row(["calls meanwhile".to_owned(), cell(rate.median), cell(rate.min)]);
    right(table, 1)
}

fn table<const N: usize>(titles: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(titles);
    table
}

/// Numbers to the right, from column `first` on.
fn right(mut table: Table, first: usize) -> Table {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_those_of_each_sample() {
        let sample = |honest_rate: f64, lying_rate: f64| Sample {
            honest_rate,
            lying_rate,
            settled_rate: honest_rate,
            resumed_ms: lying_rate,
            pause_ms: 1.0,
            views: 1,
        };
        let samples = vec![sample(100.0, 50.0), sample(200.0, 150.0), sample(400.0, 100.0)];
        let cells = row("silent", Place::Backup, &Lies { samples });
        let wanted = ["silent", "backup", "100 (150)", "1 (1)", "1", "200/s", "50 %", "100 %"];
        assert_eq!(cells, wanted);
    }
}
