//! The modified Andrew benchmark over any directories.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::caches::Caches;
use crate::columns::{self, Chosen};
use crate::{machine, output};

mod html;
mod make;
mod phases;
mod report;
mod result;
mod run;
mod table;
mod tree;

pub(crate) use make::compiler;
use report::Report;
use run::Plan;
pub(crate) use tree::Tree;

/// Options of `bftfs-bench andrew`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    chosen: Chosen,
    /// A source tree with a Makefile, or of C files [default: Lua 5.4, built in]
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Copies of the tree in every run; with several numbers, everything is measured with each
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_values_t = [1],
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    copies: Vec<u16>,
    /// Interleaved runs over every target; the medians are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Begin every phase with cold caches: remount ours, drop the kernel's (needs root)
    #[arg(long)]
    cold: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as a self-contained HTML page with a chart
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the benchmark, prints its table and writes its files.
///
/// # Errors
/// If a target cannot be set up or fails, targets disagree, or a file cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tree = tree::choose(options.tree.as_deref())?;
    for file in [&options.json, &options.html].into_iter().flatten() {
        output::check_writable(file)?;
    }
    let pinning = options.chosen.pin()?;
    let caches = Caches::choose(options.cold);
    let mut lab = columns::set_up(&options.chosen)?;
    let mut reports = Vec::new();
    for copies in &options.copies {
        let (runs, copies) = (options.runs.into(), usize::from(*copies));
        let plan = Plan { disk: options.chosen.dir(), runs, copies, caches };
        let measured = run::run(&tree, &mut lab.targets, plan)?;
        let mut settings = machine::describe();
        settings.extend([
            ("tree", json!(tree.name)),
            ("tree_files", json!(tree.files.len())),
            ("tree_bytes", json!(tree.bytes())),
            ("copies", json!(plan.copies)),
            ("runs", json!(plan.runs)),
            ("caches", json!(plan.caches.describe())),
            ("pinning", json!(pinning)),
            ("targets", json!(lab.notes)),
        ]);
        let names = lab.targets.iter().map(|target| target.name.clone());
        let complete = names.zip(measured.samples);
        let (order, samples): (Vec<_>, Vec<_>) =
            complete.filter(|(name, _)| !measured.failed.contains_key(name)).unzip();
        let report = Report {
            missing: lab.missing.clone().into_iter().chain(measured.failed).collect(),
            promises: lab.promises.clone(),
            ..Report::new(order, &samples, measured.result, settings)
        };
        println!("{}", table::render(&report));
        println!(
            "{runs} runs, copies of the tree: {copies}, caches {}, {pinning}",
            caches.describe()
        );
        reports.push(report);
    }
    drop(lab);
    write(options, &reports)
}

/// One report as it is, several as a list in the order of `--copies`.
fn write(options: &Options, reports: &[Report]) -> Result<()> {
    if let Some(file) = &options.json {
        let text = match reports {
            [report] => serde_json::to_string_pretty(report)?,
            reports => serde_json::to_string_pretty(reports)?,
        };
        output::write(file, &(text + "\n"))?;
    }
    if let Some(file) = &options.html {
        output::write(file, &html::render(reports)?)?;
    }
    Ok(())
}
