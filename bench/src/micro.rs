//! Latency, throughput and cost of single operations.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use crate::columns::{self, Chosen};
use crate::output;
use crate::progress::Progress;
use crate::target::Target;
use crate::{interrupt, machine};

mod direct;
mod load;
mod ops;
mod report;

use direct::{Call, Direct};
use load::Point;
use ops::{Op, Sizes};
use report::{Case, Points, Report};

/// Every thread takes at least this many steps, so that the threads overlap.
const STEPS_MIN: usize = 5;

/// Options of `bftfs-bench micro`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    chosen: Chosen,
    /// Operations in flight at once
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_values_t = [1, 10, 64],
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    in_flight: Vec<u16>,
    /// Operations per measurement, all threads together
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Interleaved rounds over every target; the medians are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Entries of the directory that is listed
    #[arg(long, default_value_t = 1000)]
    entries: u16,
    /// MiB of the sequential write and read
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    mebibytes: u16,
    /// Only these operations, by the names in the table
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = work)]
    only: Vec<Work>,
    /// One small round, to see that everything works: its numbers mean nothing
    #[arg(long, conflicts_with_all = ["count", "rounds", "entries", "mebibytes"])]
    quick: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// An operation that a client asks of the replicas.
    Call(Call),
    /// An operation in a directory.
    File(Op),
}

impl Work {
    fn all() -> impl Iterator<Item = Self> {
        Call::ALL.into_iter().map(Self::Call).chain(Op::ALL.into_iter().map(Self::File))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Call(call) => call.name(),
            Self::File(op) => op.name(),
        }
    }

    /// How it is measured with so many in flight; `None` where that makes no sense.
    fn case(self, in_flight: usize) -> Option<Case> {
        let (concurrent, bytes) = match self {
            Self::Call(_) => (true, 0),
            Self::File(op) => (op.is_concurrent(), op.bytes()),
        };
        let case = Case { op: self.name(), in_flight, bytes };
        (in_flight == 1 || concurrent).then_some(case)
    }
}

fn work(name: &str) -> Result<Work, String> {
    Work::all().find(|work| work.name() == name).ok_or_else(|| {
        let names: Vec<_> = Work::all().map(Work::name).collect();
        format!("there is {}", names.join(", "))
    })
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Plan {
    count: usize,
    rounds: usize,
    sizes: Sizes,
}

impl Plan {
    fn new(options: &Options) -> Result<Self> {
        if options.quick {
            let sizes = Sizes { entries: 20, mebibytes: 2 };
            return Ok(Self { count: 20, rounds: 1, sizes });
        }
        Ok(Self {
            count: usize::try_from(options.count)?,
            rounds: options.rounds.into(),
            sizes: Sizes { entries: options.entries.into(), mebibytes: options.mebibytes.into() },
        })
    }
}

/// Runs the benchmark, prints its tables and writes its file.
///
/// # Errors
/// If a target cannot be set up or fails, or the file cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(file) = &options.json {
        output::check_writable(file)?;
    }
    let plan = Plan::new(options)?;
    let pinning = options.chosen.pin()?;
    let lab = columns::set_up(&options.chosen)?;
    let cases = cases(options);
    let sites = lab.targets.iter().map(Site::new).collect::<Result<Vec<_>>>()?;
    let points = measure_all(&sites, &cases, plan)?;
    let fallbacks: BTreeMap<&str, u64> = sites
        .iter()
        .filter_map(|site| Some((site.name(), site.direct.as_ref()?.fallbacks())))
        .collect();

    let mut settings = machine::describe();
    settings.extend([
        ("count", json!(plan.count)),
        ("rounds", json!(plan.rounds)),
        ("readdir_entries", json!(plan.sizes.entries)),
        ("sequential_mebibytes", json!(plan.sizes.mebibytes)),
        ("names", json!("relative to an open directory: a path adds a lookup per component")),
        ("quick", json!(options.quick)),
        ("fast_reads_ordered", json!(fallbacks)),
        ("pinning", json!(pinning)),
        ("targets", json!(lab.notes)),
    ]);
    let order = lab.targets.iter().map(|target| target.name.clone()).collect();
    drop(sites);
    let (missing, promises) = (lab.missing.clone(), lab.promises.clone());
    drop(lab);
    let cases = cases.into_iter().map(|(_, case)| case).collect();
    let report = Report { missing, promises, ..Report::new(order, cases, &points, settings) };
    println!("{}", report.tables());
    println!("{} rounds of {} operations, {pinning}", plan.rounds, plan.count);
    if let Some(file) = &options.json {
        output::write(file, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    Ok(())
}

/// Every operation with every number in flight that makes sense for it.
fn cases(options: &Options) -> Vec<(Work, Case)> {
    let wanted = |work: &Work| options.only.is_empty() || options.only.contains(work);
    Work::all()
        .filter(wanted)
        .flat_map(|work| options.in_flight.iter().map(move |&n| (work, work.case(n.into()))))
        .filter_map(|(work, case)| Some((work, case?)))
        .collect()
}

/// A target, and a client beside its mount where there are replicas.
struct Site<'a> {
    target: &'a Target,
    direct: Option<Direct>,
}

impl<'a> Site<'a> {
    fn new(target: &'a Target) -> Result<Self> {
        Ok(Self { target, direct: Direct::connect(target)? })
    }

    fn name(&self) -> &str {
        &self.target.name
    }

    /// One measurement; `None` if this target has nothing of the kind.
    fn measure(&self, work: Work, in_flight: usize, plan: Plan) -> Result<Option<Point>> {
        interrupt::check()?;
        match (work, &self.direct) {
            (Work::File(op), _) => measure_files(self.target, op, in_flight, plan).map(Some),
            (Work::Call(_), None) => Ok(None),
            (Work::Call(call), Some(direct)) => {
                let workers = (0..in_flight).map(|_| direct.step(call)).collect();
                let steps = plan.count.div_ceil(in_flight).max(STEPS_MIN);
                load::measure(&direct.target, workers, steps).map(Some)
            }
        }
    }
}

/// Each round visits every target, the first one rotating.
fn measure_all(sites: &[Site<'_>], cases: &[(Work, Case)], plan: Plan) -> Result<Points> {
    let mut points = Points::new();
    let progress = Progress::new(plan.rounds * sites.len());
    for round in 0..plan.rounds {
        for turn in 0..sites.len() {
            let site = &sites[(round + turn) % sites.len()];
            let label = format!("round {}/{} {}", round + 1, plan.rounds, site.name());
            for (work, case) in cases {
                progress.begin(&format!("{label}: {} × {}", case.op, case.in_flight));
                let point = site
                    .measure(*work, case.in_flight, plan)
                    .with_context(|| format!("target {}: {} failed", site.name(), case.op))?;
                let key = (site.name().to_owned(), case.op.to_owned(), case.in_flight);
                points.entry(key).or_default().extend(point);
            }
            progress.end(&label);
        }
    }
    Ok(points)
}

/// A measurement in a directory of its own that is removed whatever happens.
fn measure_files(target: &Target, op: Op, in_flight: usize, plan: Plan) -> Result<Point> {
    let scratch = tempfile::Builder::new()
        .prefix("micro-")
        .tempdir_in(&target.dir)
        .with_context(|| format!("cannot write to {}", target.dir.display()))?;
    let steps = op.steps(plan.count, plan.sizes).div_ceil(in_flight).max(STEPS_MIN);
    let dirs = if op.shares_dir() { 1 } else { in_flight };
    let dirs: Vec<_> = (0..dirs).map(|dir| scratch.path().join(format!("dir-{dir}"))).collect();
    for dir in &dirs {
        std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let mut workers = Vec::with_capacity(in_flight);
    for dir in dirs.iter().cycle().take(in_flight) {
        interrupt::check()?;
        workers.push(op.prepare(dir, steps, plan.sizes)?);
    }
    let point = load::measure(target, workers, steps)?;
    for dir in &dirs {
        op.check(dir, steps)?;
    }
    let path = scratch.path().to_owned();
    scratch.close().with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(point)
}
