//! Runs seeds: `bftfs-sim --seed S --count N`. Exits non-zero on a violation.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bftfs_adversary::Role;
use bftfs_sim::faults::Sabotage;
use bftfs_sim::trace::note_panics;
use bftfs_sim::workload::{FilesLoad, ListsLoad};
use bftfs_sim::{Choices, Report, World};
use clap::{Parser, ValueEnum as _};

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
    /// The role that every Byzantine replica plays throughout; chosen by each seed if not given.
    #[arg(long)]
    role: Option<Role>,
    /// Byzantine replicas; at most f and chosen by each seed if not given.
    #[arg(long)]
    liars: Option<usize>,
    /// The primary of the first view is correct.
    #[arg(long)]
    backups_only: bool,
    /// Byzantine clients; chosen by each seed if not given.
    #[arg(long)]
    rogues: Option<u32>,
    /// Replicas with bad disks or clocks; chosen by each seed if not given.
    #[arg(long)]
    faulty: Option<usize>,
    /// What clients do; by turns if not given.
    #[arg(long)]
    workload: Option<Load>,
    /// Seeds that run at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// End with the first seed that fails.
    #[arg(long)]
    stop: bool,
    /// Run every seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Break a rule on purpose: the run must then fail.
    #[arg(long, value_name = "RULE")]
    sabotage: Option<Broken>,
    /// Have every replica break this rule of the core: the run must then fail.
    #[cfg(feature = "faults")]
    #[arg(long)]
    fault: Option<bftfs_proto::replica::Fault>,
    /// Say how each seed went.
    #[arg(long)]
    verbose: bool,
}

/// What clients do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Load {
    /// They append to lists and put to registers.
    Lists,
    /// They use a file system.
    Files,
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
    /// Clients believe one replica less than a quorum.
    SmallReadQuorum,
}

impl From<Broken> for Sabotage {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Amnesia => Self::Amnesia,
            Broken::EarlySend => Self::EarlySend,
            Broken::StateDrift => Self::StateDrift,
            Broken::SmallReadQuorum => Self::SmallReadQuorum,
        }
    }
}

/// Sums over all runs, to see that they reach what they are to test.
#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    failed: u64,
    events: u64,
    nanos: u64,
    completed: u64,
    crashes: u64,
    stops: u64,
    damaged: u64,
    wiped: u64,
    mended: u64,
    transfers: u64,
    fast_reads: u64,
    beyond_checkpoint: u64,
    with_liars: u64,
    refused: u64,
    view_changes: u64,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += u64::from(report.violation.is_some());
        self.with_liars += u64::from(!report.cast.liars.is_empty());
        self.refused += report.refused;
        self.view_changes += report.view;
        self.events += report.events;
        self.nanos += report.nanos;
        self.completed += report.completed;
        self.crashes += report.crashes;
        self.stops += report.stops;
        self.damaged += report.damaged;
        self.wiped += report.wiped;
        self.mended += report.mended;
        self.transfers += report.transfers;
        self.fast_reads += report.fast_reads;
        self.beyond_checkpoint += u64::from(report.stable > 0);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    note_panics();
    let began = Instant::now();
    let totals = run_all(&arguments);
    summarise(&totals, began.elapsed().as_secs_f64());
    if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the seeds, each job every so manieth.
fn run_all(arguments: &Arguments) -> Totals {
    let next = AtomicU64::new(0);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let k = next.fetch_add(1, Ordering::Relaxed);
                    if k >= arguments.count {
                        break;
                    }
                    if arguments.stop && failed(&totals) {
                        break;
                    }
                    let seed = arguments.seed.saturating_add(k);
                    let report = run(arguments, seed);
                    tell(arguments, seed, &report);
                    totals.lock().unwrap_or_else(PoisonError::into_inner).add(&report);
                }
            });
        }
    });
    totals.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn failed(totals: &Mutex<Totals>) -> bool {
    totals.lock().unwrap_or_else(PoisonError::into_inner).failed > 0
}

fn tell(arguments: &Arguments, seed: u64, report: &Report) {
    let Some(violation) = &report.violation else {
        if arguments.verbose {
            println!("seed {seed}: trace {} {report:?}", report.trace);
        }
        return;
    };
    let events = report.last_events.join("\n    ");
    println!(
        "seed {seed}: {violation}\n  liars: {:?}\n  last events:\n    {events}\n  \
         to reproduce: bftfs-sim --seed {seed}{}",
        report.cast,
        options(arguments)
    );
}

fn run(arguments: &Arguments, seed: u64) -> Report {
    let choices = Choices {
        replicas: arguments.replicas,
        liars: arguments.liars,
        role: arguments.role,
        backups_only: arguments.backups_only,
        rogues: arguments.rogues,
        faulty: arguments.faulty,
        sabotage: arguments.sabotage.map(Into::into),
        #[cfg(feature = "faults")]
        fault: arguments.fault,
        #[cfg(not(feature = "faults"))]
        fault: None,
    };
    let by_turns = if seed.is_multiple_of(2) { Load::Files } else { Load::Lists };
    let once = || match arguments.workload.unwrap_or(by_turns) {
        Load::Lists => World::new(seed, &choices, ListsLoad::default()).run(),
        Load::Files => World::new(seed, &choices, FilesLoad::of(seed)).run(),
    };
    let mut report = once();
    if arguments.twice && once().trace != report.trace {
        report.violation = Some("the same seed gave two different runs".into());
    }
    report
}

/// The options that a run depends on, as they were given.
fn options(arguments: &Arguments) -> String {
    let mut options = String::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            options += &format!(" --{name} {value}");
        }
    };
    add("replicas", arguments.replicas.map(|n| n.to_string()));
    add("role", arguments.role.map(|role| role.to_string()));
    add("liars", arguments.liars.map(|n| n.to_string()));
    add("rogues", arguments.rogues.map(|n| n.to_string()));
    add("faulty", arguments.faulty.map(|n| n.to_string()));
    let load = arguments.workload.and_then(|load| load.to_possible_value());
    add("workload", load.map(|load| load.get_name().into()));
    let rule = arguments.sabotage.and_then(|rule| rule.to_possible_value());
    #[cfg(feature = "faults")]
    add("fault", arguments.fault.map(|fault| fault.to_string()));
    add("sabotage", rule.map(|rule| rule.get_name().into()));
    if arguments.backups_only {
        options += " --backups-only";
    }
    options
}

fn summarise(totals: &Totals, seconds: f64) {
    let hours = std::time::Duration::from_nanos(totals.nanos).as_secs_f64() / 3600.0;
    let per_minute = 60.0 * totals.runs as f64 / seconds.max(0.001);
    println!(
        "{} events, {hours:.2} simulated hours, {} operations ({} fast reads), {} crashes, \
         {} stops for want of room, {} damaged disks, {} brought back, {} blocks mended, {} state transfers, {} views, {} runs with Byzantine replicas, {} frames refused, \
         {} runs with a stable checkpoint, {per_minute:.0} seeds a minute",
        totals.events,
        totals.completed,
        totals.fast_reads,
        totals.crashes,
        totals.stops,
        totals.damaged,
        totals.wiped,
        totals.mended,
        totals.transfers,
        totals.view_changes,
        totals.with_liars,
        totals.refused,
        totals.beyond_checkpoint,
    );
    println!("{} passed, {} failed", totals.runs - totals.failed, totals.failed);
}
