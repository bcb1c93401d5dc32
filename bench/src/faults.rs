//! What users notice when replicas die, lie, or come back.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bftfs_adversary::Role;
use clap::Args;
use serde_json::json;

use crate::bytes::Bytes;
use crate::progress::Progress;
use crate::{machine, output};

mod away;
mod kill;
mod lie;
mod load;
mod report;
mod site;
mod wiped;

use report::Report;

/// Options of `bftfs-bench faults`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these parts
    #[arg(long, value_name = "PART,PART", value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Times that the primary is killed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    kills: u16,
    /// Roles that are played [default: all]
    #[arg(long, value_name = "ROLE,ROLE", value_delimiter = ',')]
    roles: Vec<Role>,
    /// Interleaved rounds over every role, each with the liar as primary and as backup
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Times that a replica lies after it was honest, in each round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    turns: u16,
    /// Seconds that it is honest, and then lies
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Times that a replica is away
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    absences: u16,
    /// Operations that it misses
    #[arg(long, default_value_t = 10_000)]
    operations: u64,
    /// Bytes of files that there are when a replica loses its disk
    #[arg(long, value_name = "BYTES", default_value = "1GiB")]
    state_bytes: Bytes,
    /// Times that a replica loses its disk
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    wipes: u16,
    /// Where clusters keep their data: a directory on a disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The primary is killed under load
    Kill,
    /// A replica begins to lie under load
    Lie,
    /// A replica comes back after it missed much
    Away,
    /// A replica that lost its disk is brought back by its operator
    Wiped,
}

/// Where a liar is when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Primary,
    Backup,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        })
    }
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Every role that is to be played, and from where.
    fn casts(&self) -> Vec<(Role, Place)> {
        let roles = if self.roles.is_empty() { Role::ALL } else { &self.roles };
        let places = [Place::Primary, Place::Backup];
        roles.iter().flat_map(|role| places.map(|place| (*role, place))).collect()
    }
}

/// Runs the measurements, prints their tables and writes their file.
///
/// # Errors
/// If a cluster cannot be set up, does not recover, or the file cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(file) = &options.json {
        output::check_writable(file)?;
    }
    let mut settings = machine::describe();
    settings.extend([
        ("pinning", json!(machine::pinning(None))),
        ("workers", json!(load::WORKERS)),
        ("turns", json!(options.turns)),
        ("turn_seconds", json!(options.seconds)),
        ("missed_operations", json!(options.operations)),
        ("state_bytes", json!(options.state_bytes)),
        ("cluster", json!("4 replicas, strict, durability sync")),
    ]);
    let dir = tempfile::Builder::new().prefix("bftfs-bench-").tempdir_in(&options.dir);
    let dir = dir.with_context(|| format!("--dir {}", options.dir.display()))?;
    let mut report = Report::new(settings);
    if options.wants(Part::Kill) {
        report.kill = Some(kill::measure(dir.path(), options.kills.into())?);
    }
    if options.wants(Part::Away) {
        report.away = Some(away::measure(dir.path(), options.absences, options.operations)?);
    }
    if options.wants(Part::Wiped) {
        report.wiped = Some(wiped::measure(dir.path(), options.wipes, options.state_bytes)?);
    }
    if options.wants(Part::Lie) {
        measure_lies(options, dir.path(), &mut report)?;
    }
    println!("{}", report.tables());
    if let Some(file) = &options.json {
        output::write(file, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    Ok(())
}

/// Each round has every role played once in each place.
fn measure_lies(options: &Options, dir: &Path, report: &mut Report) -> Result<()> {
    let (casts, window) = (options.casts(), Duration::from_secs(options.seconds.into()));
    let progress = Progress::new(casts.len() * usize::from(options.rounds));
    for round in 1..=options.rounds {
        for &(role, place) in &casts {
            let label = format!("round {round}: {role} as {place}");
            progress.begin(&label);
            let sample = lie::measure(dir, role, place, window, options.turns);
            let sample = sample.with_context(|| label.clone())?;
            progress.end(&format!("{label}: {sample}"));
            report.add(role, place, sample);
        }
    }
    Ok(())
}
