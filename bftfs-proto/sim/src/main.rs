//! Runs seeds: `bftfs-sim --seed S --count N`. Exits non-zero on a violation.

use std::time::Instant;

use bftfs_sim::faults::Sabotage;
use bftfs_sim::workload::ListsLoad;
use bftfs_sim::{Report, World};
use clap::Parser;

/// Runs the agreement in a simulated world, once per seed, and checks it after every step.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after another.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Replicas in the cluster; chosen by each seed if not given.
    #[arg(long)]
    replicas: Option<usize>,
    /// Run every seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Break a rule on purpose: the run must then fail.
    #[arg(long, value_name = "RULE")]
    sabotage: Option<Broken>,
    /// Say how each seed went.
    #[arg(long)]
    verbose: bool,
}

/// The rules that can be broken.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Broken {
    /// Crashes lose records that were synced.
    Amnesia,
    /// Messages leave before what they depend on is durable.
    EarlySend,
    /// One replica's state differs.
    StateDrift,
}

impl From<Broken> for Sabotage {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Amnesia => Self::Amnesia,
            Broken::EarlySend => Self::EarlySend,
            Broken::StateDrift => Self::StateDrift,
        }
    }
}

/// Sums over all runs, to see that they reach what they are to test.
#[derive(Debug, Default)]
struct Totals {
    failed: u64,
    events: u64,
    nanos: u64,
    completed: u64,
    crashes: u64,
    transfers: u64,
    fast_reads: u64,
    beyond_checkpoint: u64,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.events += report.events;
        self.nanos += report.nanos;
        self.completed += report.completed;
        self.crashes += report.crashes;
        self.transfers += report.transfers;
        self.fast_reads += report.fast_reads;
        self.beyond_checkpoint += u64::from(report.stable > 0);
    }
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let mut totals = Totals::default();
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.count) {
        let report = run(&arguments, seed);
        if let Some(violation) = &report.violation {
            totals.failed += 1;
            println!("seed {seed}: {violation}");
            println!("  to reproduce: bftfs-sim --seed {seed}{}", with_replicas(&arguments));
        } else if arguments.verbose {
            println!("seed {seed}: trace {} {report:?}", report.trace);
        }
        totals.add(&report);
    }
    summarise(&arguments, &totals, began.elapsed().as_secs_f64());
    if totals.failed == 0 {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}

fn run(arguments: &Arguments, seed: u64) -> Report {
    let once = || match arguments.sabotage {
        Some(rule) => {
            let load = ListsLoad::default();
            World::sabotaged(seed, arguments.replicas, load, rule.into()).run()
        }
        None => World::new(seed, arguments.replicas, ListsLoad::default()).run(),
    };
    let mut report = once();
    if arguments.twice && once().trace != report.trace {
        report.violation = Some("the same seed gave two different runs".into());
    }
    report
}

fn with_replicas(arguments: &Arguments) -> String {
    arguments.replicas.map(|n| format!(" --replicas {n}")).unwrap_or_default()
}

fn summarise(arguments: &Arguments, totals: &Totals, seconds: f64) {
    let hours = std::time::Duration::from_nanos(totals.nanos).as_secs_f64() / 3600.0;
    let per_minute = 60.0 * arguments.count as f64 / seconds.max(0.001);
    println!(
        "{} events, {hours:.2} simulated hours, {} operations ({} fast reads), {} crashes, \
         {} state transfers, {} runs with a stable checkpoint, {per_minute:.0} seeds a minute",
        totals.events,
        totals.completed,
        totals.fast_reads,
        totals.crashes,
        totals.transfers,
        totals.beyond_checkpoint,
    );
    println!("{} passed, {} failed", arguments.count - totals.failed, totals.failed);
}
