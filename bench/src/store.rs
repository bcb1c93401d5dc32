//! What the store of one replica costs.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::{Durability, Mode};
use clap::Args;
use serde_json::json;

use crate::bytes::Bytes;
use crate::room::Room;
use crate::{machine, output};

mod amplification;
mod checkpoint;
mod client;
mod contents;
mod files;
mod large;
mod report;
mod site;
mod start;

use files::{DIRECTORY_FILES, Population};
use report::Report;
use site::{Plan, Site};

/// Bytes of the disk that a small file takes at most, in a store that is being written anew.
const FILE_DISK_BYTES: u64 = 4096;
/// Stores that there is room for while one is written anew, because files were removed.
const REWRITTEN: u64 = 3;

/// Options of `bftfs-bench store`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these parts
    #[arg(long, value_name = "PART,PART", value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Replicas, of which the first is looked at; start takes one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=19))]
    replicas: u32,
    /// Whether votes, and so the store, wait for the disk
    #[arg(long, value_enum, default_value_t = Durability::Replicated)]
    durability: Durability,
    /// How the mount carries out reads
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Rounds; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// files: numbers of files at which it is measured; start and checkpoint: at the largest
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_values_t = [10_000, 100_000, 1_000_000],
        value_parser = clap::value_parser!(u32).range(10..)
    )]
    files: Vec<u32>,
    /// files: operations of each kind in a round
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// start: starts of each kind
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    starts: u16,
    /// checkpoint: operations whose latency is measured
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    operations: u32,
    /// checkpoint: files that change between two checkpoints
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [0, 1, 10, 100, 1000])]
    changed: Vec<u32>,
    /// large: bytes of the file
    #[arg(long, value_name = "BYTES", default_value = "4GiB")]
    large_bytes: Bytes,
    /// amplification: small files, of 4 KiB each
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    small_files: u32,
    /// amplification: bytes of the large file
    #[arg(long, value_name = "BYTES", default_value = "256MiB")]
    amplified_bytes: Bytes,
    /// amplification: overwrites, of 4 KiB each
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    overwrites: u32,
    /// amplification: bytes of the file that is overwritten
    #[arg(long, value_name = "BYTES", default_value = "64MiB")]
    overwritten_bytes: Bytes,
    /// memory: bytes of files
    #[arg(long, value_name = "BYTES", default_value = "20GiB")]
    contents_bytes: Bytes,
    /// Where replicas and local files are: a directory on a disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Rates of create, stat, read and delete, and memory, with more and more files
    Files,
    /// Start after a clean stop and after a kill
    Start,
    /// Latencies with and without a checkpoint, and bytes written for one
    Checkpoint,
    /// Sequential write and read of a large file, against the local file system
    Large,
    /// Bytes written to disk per byte of user data
    Amplification,
    /// Memory with more and more contents
    Memory,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// The numbers of files, the smallest first.
    fn sizes(&self) -> Result<Vec<usize>> {
        let mut sizes =
            self.files.iter().map(|&n| Ok(usize::try_from(n)?)).collect::<Result<Vec<_>>>()?;
        sizes.sort_unstable();
        sizes.dedup();
        if let Some(odd) = sizes.iter().find(|size| !size.is_multiple_of(DIRECTORY_FILES)) {
            anyhow::bail!("--files {odd}: it must be a multiple of {DIRECTORY_FILES}");
        }
        Ok(sizes)
    }

    fn amounts(&self) -> Result<amplification::Amounts> {
        for (name, bytes) in [
            ("large", self.large_bytes),
            ("amplified", self.amplified_bytes),
            ("overwritten", self.overwritten_bytes),
            ("contents", self.contents_bytes),
        ] {
            ensure!(bytes.0 > 0, "--{name}-bytes: there is nothing to measure with none");
        }
        Ok(amplification::Amounts {
            small_files: usize::try_from(self.small_files)?,
            large: self.amplified_bytes,
            overwrites: usize::try_from(self.overwrites)?,
            overwritten: self.overwritten_bytes,
            rounds: self.rounds.into(),
        })
    }
}

/// Runs the measurements, prints their tables and writes their file: also of those that were done
/// before one failed.
///
/// # Errors
/// If a replica cannot be set up or fails, there is no room, or the file cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(file) = &options.json {
        output::check_writable(file)?;
    }
    ensure!(
        options.replicas == 1 || !options.wants(Part::Start),
        "--replicas {}: start measures a replica alone, since the others would answer for it; \
         choose other parts with --only",
        options.replicas
    );
    let mut settings = machine::describe();
    settings.extend([
        ("pinning", json!(machine::pinning(None))),
        ("rounds", json!(options.rounds)),
        ("sample", json!(options.sample)),
        ("starts", json!(options.starts)),
        ("mode", json!(options.mode.name())),
        ("replicas", json!(options.replicas)),
        ("durability", json!(options.durability.name())),
        ("disk", json!(crate::columns::describe(&options.dir))),
    ]);
    let dir = tempfile::Builder::new().prefix("bftfs-bench-").tempdir_in(&options.dir);
    let dir = dir.with_context(|| format!("--dir {}", options.dir.display()))?;
    let plan = Plan {
        parent: dir.path().to_owned(),
        replicas: options.replicas,
        durability: options.durability,
        mode: options.mode,
    };
    let mut report = Report::new(settings);
    let measured = measure(options, &plan, &mut report);
    println!("{}", report.tables());
    if let Some(file) = &options.json {
        output::write(file, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    measured
}

fn measure(options: &Options, plan: &Plan, report: &mut Report) -> Result<()> {
    let amounts = options.amounts()?;
    let room = Room::of(&plan.parent);
    measure_files(options, plan, &room, report)?;
    let replicas = u64::from(plan.replicas);
    let rewritten = |bytes: u64| bytes.saturating_mul(REWRITTEN * replicas);
    if options.wants(Part::Large) {
        let (bytes, local) = (options.large_bytes, plan.parent.join("local"));
        let needed = bytes.0.saturating_add(rewritten(bytes.0));
        room.require(needed, &format!("a file of {bytes} in two places"))?;
        std::fs::create_dir(&local)?;
        let mut site = Site::new(plan)?;
        let large = large::measure(&mut site, &local, bytes, options.rounds.into());
        report.large = Some(large.context("large")?);
    }
    if options.wants(Part::Amplification) {
        let bytes = (amounts.rounds as u64 + 1).saturating_mul(amounts.large.0);
        room.require(rewritten(bytes), "amplification")?;
        let measured = amplification::measure(&Site::new(plan)?, &amounts);
        report.amplification = measured.context("amplification")?;
    }
    if options.wants(Part::Memory) {
        let bytes = options.contents_bytes;
        // Nothing is removed, so little of the store is dead.
        let needed = bytes.0.saturating_add(bytes.0 / 4).saturating_mul(replicas);
        room.require(needed, &format!("{bytes} of contents"))?;
        let measured = contents::measure(&Site::new(plan)?, bytes);
        report.memory = Some(measured.context("memory")?);
    }
    Ok(())
}

/// The parts that take many files, which are made once.
fn measure_files(options: &Options, plan: &Plan, room: &Room, report: &mut Report) -> Result<()> {
    let wants = |part| options.wants(part);
    let at_largest = wants(Part::Start) || wants(Part::Checkpoint);
    if !wants(Part::Files) && !at_largest {
        return Ok(());
    }
    let sizes = options.sizes()?;
    let largest = sizes.last().copied().context("--files: none are asked for")?;
    let needed = largest as u64 * FILE_DISK_BYTES * u64::from(plan.replicas);
    room.require(needed, &format!("{largest} files"))?;
    let mut site = Site::new(plan)?;
    let client = site.client()?;
    let mut population = Population::new(&client)?;
    for &size in sizes.iter().filter(|size| wants(Part::Files) || **size == largest) {
        let start = Instant::now();
        population.grow(&site, &client, size)?;
        let seconds = start.elapsed().as_secs_f64();
        site.settle(&client)?;
        if wants(Part::Files) {
            let (sample, rounds) = (usize::try_from(options.sample)?, options.rounds.into());
            let measured = files::measure(&site, &population, sample, rounds, seconds);
            report.files.push(measured.context("files")?);
        }
    }
    site.unmount()?;
    if wants(Part::Checkpoint) {
        let changed = options.changed.iter().map(|&n| Ok(usize::try_from(n)?));
        let amounts = checkpoint::Amounts {
            operations: usize::try_from(options.operations)?,
            changed: &changed.collect::<Result<Vec<_>>>()?,
            rounds: options.rounds.into(),
        };
        let measured = checkpoint::measure(&site, &client, &population, &amounts);
        report.checkpoint = Some(measured.context("checkpoint")?);
    }
    if wants(Part::Start) {
        // A client that comes back in its own time would disturb.
        drop(client);
        let measured = start::measure(&site, population.files(), options.starts);
        report.start = Some(measured.context("start")?);
    }
    Ok(())
}
