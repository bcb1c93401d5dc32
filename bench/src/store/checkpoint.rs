//! What a checkpoint costs: the operations meanwhile in time, and the disk in bytes.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bftfs_fs::Ino;
use bftfs_proto::config::CHECKPOINT_INTERVAL_SEQS;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::client::Client;
use super::files::{FILE_BYTES, Population};
use super::site::{Site, Written, WrittenBytes, next_checkpoint};
use crate::fill;
use crate::interrupt;
use crate::progress::Progress;

/// Operations that are classified together, or not at all if somebody else was served meanwhile: a
/// multiple of four, and a few checkpoints.
const GROUP: usize = 512;
/// Groups that may be disturbed for each one that is not.
const DISTURBED_MAX: usize = 1;
/// Operations after a checkpoint that may still notice that it is being written.
const AFTER: u64 = 16;
/// Directories that the operations go over.
const DIRECTORIES: usize = 1000;
/// Latencies are kept up to this many nanoseconds; longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// The upper end of the first bar of a histogram; each further one is twice as far.
const BAR_NS: u64 = 62_500;
/// Files that are changed at once.
const THREADS: usize = 64;
/// Times that it is told how far the operations are.
const TOLD: usize = 10;
/// Times that changes are tried until they fit between two checkpoints.
const ATTEMPTS: u64 = 10;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Checkpoints {
    pub(super) files: usize,
    /// Operations during which the number of a checkpoint was executed.
    pub(super) with: Latencies,
    /// The next 16 after each of those. They are among `without` as well.
    pub(super) after: Latencies,
    /// All others.
    pub(super) without: Latencies,
    /// Groups of operations that were not counted, because somebody else was served meanwhile.
    pub(super) disturbed: usize,
    pub(super) bytes: Vec<Cost>,
}

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latencies {
    pub(super) count: u64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
    /// How many took longer than the bar before and no longer than this.
    pub(super) histogram: Vec<Bar>,
}

#[derive(Debug, Serialize)]
pub(super) struct Bar {
    up_to_ms: f64,
    count: u64,
}

/// Bytes written for one checkpoint.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    /// Files that had changed since the checkpoint before.
    pub(super) changed: usize,
    /// `None` if they cannot change between two checkpoints: alone, a replica takes a batch for
    /// every operation.
    pub(super) written: Option<WrittenBytes>,
}

/// How much is measured.
#[derive(Debug)]
pub(super) struct Amounts<'a> {
    pub(super) operations: usize,
    pub(super) changed: &'a [usize],
    pub(super) rounds: usize,
}

/// Measures both. The site must not be mounted: every number has to be that of a known operation.
pub(super) fn measure(
    site: &Site,
    client: &Client,
    population: &Population,
    amounts: &Amounts<'_>,
) -> Result<Checkpoints> {
    let directories = population.directories(client, DIRECTORIES)?;
    let (classes, disturbed) = latencies(site, client, &directories, amounts.operations)?;
    let most = amounts.changed.iter().copied().max().unwrap_or(0);
    let files = population.some_files(client, most)?;
    let mut bytes = Vec::new();
    for &changed in amounts.changed {
        ensure!(changed <= files.len(), "--changed {changed}: there are only {}", files.len());
        let once = |round| written(site, client, &files[..changed], round);
        let samples = (0..amounts.rounds).map(once).collect::<Result<Option<Vec<_>>>>();
        let samples = samples.with_context(|| format!("with {changed} changed files"))?;
        let Some(samples) = samples else {
            eprintln!(
                "checkpoint: {changed} changes take more than the {CHECKPOINT_INTERVAL_SEQS} \
                 batches between two checkpoints; with --replicas 4 there are several in a batch"
            );
            bytes.push(Cost { changed, written: None });
            continue;
        };
        for (round, sample) in samples.iter().enumerate() {
            eprintln!("checkpoint, {changed} files changed, round {}: {sample}", round + 1);
        }
        bytes.push(Cost { changed, written: Some(Written::summary(&samples)?) });
    }
    let files = population.files();
    let Classes { with, after, without } = classes;
    let (with, after, without) = (told(&with), told(&after), told(&without));
    Ok(Checkpoints { files, with, after, without, disturbed, bytes })
}

struct Classes {
    with: Histogram<u64>,
    after: Histogram<u64>,
    without: Histogram<u64>,
}

impl Classes {
    fn new() -> Result<Self> {
        let new = || Histogram::new_with_max(LATENCY_NS_MAX, 3).context("the bounds are valid");
        Ok(Self { with: new()?, after: new()?, without: new()? })
    }

    /// An operation that got the number `seq`.
    fn record(&mut self, seq: u64, nanoseconds: u64) {
        match seq % CHECKPOINT_INTERVAL_SEQS {
            0 => self.with.saturating_record(nanoseconds),
            since => {
                if since <= AFTER {
                    self.after.saturating_record(nanoseconds);
                }
                self.without.saturating_record(nanoseconds);
            }
        }
    }
}

/// One operation after the other, so that each is a batch and has the number after the last one's.
fn latencies(
    site: &Site,
    client: &Client,
    directories: &[Ino],
    operations: usize,
) -> Result<(Classes, usize)> {
    let groups = operations.div_ceil(GROUP);
    let (mut classes, mut counted, mut disturbed) = (Classes::new()?, 0, 0);
    let progress = Progress::new(TOLD.min(groups));
    progress.begin("latencies");
    for number in 0.. {
        if counted == groups {
            break;
        }
        let before = site.counters()?.last_executed;
        let group = one_group(client, directories, number)?;
        if site.counters()?.last_executed != before + group.len() as u64 {
            disturbed += 1;
            ensure!(
                disturbed <= (counted + 1) * DISTURBED_MAX + 3,
                "numbers go to others than this client: which operation a checkpoint fell into is \
                 not known"
            );
            continue;
        }
        (before + 1..).zip(&group).for_each(|(seq, nanos)| classes.record(seq, *nanos));
        counted += 1;
        if counted * TOLD / groups != (counted - 1) * TOLD / groups {
            progress.end(&format!("latencies: {} operations of {operations}", counted * GROUP));
        }
    }
    Ok((classes, disturbed))
}

/// Nanoseconds that each operation of a group took.
fn one_group(client: &Client, directories: &[Ino], number: usize) -> Result<Vec<u64>> {
    let mut group = Vec::with_capacity(GROUP);
    let mut timed = |operation: &mut dyn FnMut() -> Result<()>| {
        interrupt::check()?;
        let begin = Instant::now();
        operation()?;
        group.push(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        anyhow::Ok(())
    };
    for step in number * GROUP / 4..(number + 1) * GROUP / 4 {
        let parent = directories[step % directories.len()];
        let name = format!("small-{step}");
        let mut file = parent;
        timed(&mut || {
            file = client.create(parent, &name)?;
            Ok(())
        })?;
        timed(&mut || client.write(file, &[7; FILE_BYTES]))?;
        timed(&mut || client.stat(file))?;
        timed(&mut || client.unlink(parent, &name))?;
    }
    Ok(group)
}

fn told(histogram: &Histogram<u64>) -> Latencies {
    let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    let at = |quantile| ms(histogram.value_at_quantile(quantile));
    let bars = histogram.iter_log(BAR_NS, 2.0).map(|bar| Bar {
        up_to_ms: ms(bar.value_iterated_to()),
        count: bar.count_since_last_iteration(),
    });
    Latencies {
        count: histogram.len(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: ms(histogram.max()),
        histogram: bars.collect(),
    }
}

/// Bytes that are written for a checkpoint when `files` were changed since the one before: what is
/// written from the moment before its number is executed until nothing more is. That is the
/// store's, but for the record of one operation in the journal. `None` if the changes do not fit.
fn written(site: &Site, client: &Client, files: &[Ino], round: usize) -> Result<Option<Written>> {
    for attempt in 0..ATTEMPTS {
        site.settle(client)?;
        let checkpoint = next_checkpoint(site.counters()?.last_executed);
        let contents = fill::mix(round as u64 * ATTEMPTS + attempt).to_le_bytes();
        let contents = contents.repeat(FILE_BYTES / contents.len());
        fill::quietly(files.len(), THREADS, |file| client.write(files[file], &contents))?;
        site.advance(client, checkpoint - 1)?;
        if site.counters()?.last_executed >= checkpoint {
            // The changes took more batches than there are between two checkpoints.
            continue;
        }
        let before = site.written()?;
        client.null()?;
        site.wait_until_quiet()?;
        let written = site.written()?.since(before);
        let executed = site.counters()?.last_executed;
        ensure!(executed == checkpoint, "a checkpoint at {checkpoint} is not at {executed}");
        return Ok(Some(written));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_told_apart_by_their_numbers() {
        let mut classes = Classes::new().expect("histograms");
        for seq in 1..=2 * CHECKPOINT_INTERVAL_SEQS {
            classes.record(seq, if seq % CHECKPOINT_INTERVAL_SEQS == 0 { 9_000_000 } else { 1000 });
        }
        let (with, without) = (told(&classes.with), told(&classes.without));
        assert_eq!((with.count, without.count), (2, 2 * (CHECKPOINT_INTERVAL_SEQS - 1)));
        assert_eq!(classes.after.len(), 2 * AFTER);
        assert!(with.p50_ms > 8.9 && without.max_ms < 0.1);
        let bars: u64 = with.histogram.iter().map(|bar| bar.count).sum();
        assert_eq!(bars, 2);
    }
}
