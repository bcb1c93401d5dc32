//! Interleaved runs of the five phases over all targets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::make::warm_compiler;
use super::phases::Phase;
use super::result::TreeResult;
use super::tree::Tree;
use crate::caches::Caches;
use crate::progress::Progress;
use crate::target::{Target, Usage};
use crate::{interrupt, procstat};

/// What one run over one target measured, per phase.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Seconds by the wall clock.
    pub seconds: [f64; Phase::ALL.len()],
    /// What the target's processes used.
    pub usage: [Usage; Phase::ALL.len()],
    /// Flushes of the disk, by whomever; `None` where it does not count them.
    pub flushes: [Option<u64>; Phase::ALL.len()],
}

/// How often, over how much, and from which caches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// A directory on the disk whose flushes are counted.
    pub disk: &'a Path,
    /// Runs per target.
    pub runs: usize,
    /// Copies of the tree per run.
    pub copies: usize,
    /// State of the caches before each phase.
    pub caches: Caches,
}

/// All samples of every target, in the targets' order, and what every run left behind.
#[derive(Debug)]
pub(crate) struct Measured {
    pub samples: Vec<Vec<Sample>>,
    pub result: TreeResult,
    /// The peers that failed, and how: their samples are not those of all rounds.
    pub failed: BTreeMap<String, String>,
}

/// Runs the benchmark: each round visits every target, the first one rotating, so that a drift of
/// the machine touches all alike.
///
/// # Errors
/// If a phase fails, targets disagree about the result, or the person asked to stop.
pub(crate) fn run(tree: &Tree, targets: &mut [Target], plan: Plan<'_>) -> Result<Measured> {
    ensure!(!targets.is_empty(), "there is nothing to measure: name a --target or --columns");
    let mut samples = vec![Vec::with_capacity(plan.runs); targets.len()];
    let mut reference = None;
    let mut failed = BTreeMap::new();
    let progress = Progress::new(plan.runs * targets.len());
    warm_compiler().context("the C compiler does not work here; is gcc installed?")?;
    for round in 0..plan.runs {
        for turn in 0..targets.len() {
            let index = (round + turn) % targets.len();
            let target = &mut targets[index];
            if failed.contains_key(&target.name) {
                continue;
            }
            let label = format!("run {}/{} {}", round + 1, plan.runs, target.name);
            progress.begin(&label);
            let measured = run_once(tree, target, plan)
                .and_then(|(sample, result)| {
                    compare(&mut reference, target, result).map(|()| sample)
                })
                .with_context(|| format!("target {}: the benchmark failed", target.name));
            match measured {
                Ok(sample) => {
                    let total: f64 = sample.seconds.iter().sum();
                    progress.end(&format!("{label}: {total:.2} s"));
                    samples[index].push(sample);
                }
                // What others do wrong is told, and is no reason to lose the rest.
                Err(error) if target.backing.is_peer() && interrupt::check().is_ok() => {
                    progress.end(&format!("{label}: {error:#}"));
                    failed.insert(target.name.clone(), format!("{error:#}"));
                }
                Err(error) => return Err(error),
            }
        }
    }
    let (_, result) = reference.context("--runs must be at least 1")?;
    Ok(Measured { samples, result, failed })
}

/// Notes what the first target was left with, and that all others are left with the same.
fn compare(
    reference: &mut Option<(String, TreeResult)>,
    target: &Target,
    result: TreeResult,
) -> Result<()> {
    let Some((first, wanted)) = reference else {
        *reference = Some((target.name.clone(), result));
        return Ok(());
    };
    ensure!(
        *wanted == result,
        "targets {first} and {} ended with different trees: {wanted:?}, {result:?}",
        target.name
    );
    Ok(())
}

/// One run over one target, in a directory of its own that is removed whatever happens.
fn run_once(tree: &Tree, target: &mut Target, plan: Plan<'_>) -> Result<(Sample, TreeResult)> {
    let scratch = tempfile::Builder::new()
        .prefix("andrew-")
        .tempdir_in(&target.dir)
        .with_context(|| format!("cannot write to {}", target.dir.display()))?;
    let roots: Vec<PathBuf> =
        (1..=plan.copies).map(|copy| scratch.path().join(format!("copy-{copy}"))).collect();
    let mut sample = Sample { seconds: [0.0; 5], usage: [Usage::default(); 5], flushes: [None; 5] };
    // Dirty pages of the run before are not this one's debt.
    rustix::fs::sync();
    for (index, phase) in Phase::ALL.into_iter().enumerate() {
        interrupt::check()?;
        if plan.caches.cool(target)? && phase == Phase::Make {
            warm_compiler()?;
        }
        let meter = target.meter()?;
        let flushes = procstat::disk_flushes(plan.disk);
        let start = Instant::now();
        for root in &roots {
            phase.run(tree, root)?;
        }
        sample.seconds[index] = start.elapsed().as_secs_f64();
        let flushed = procstat::disk_flushes(plan.disk).zip(flushes);
        sample.flushes[index] = flushed.map(|(after, before)| after.saturating_sub(before));
        sample.usage[index] = target.usage(&meter)?;
    }
    let result = check_copies(tree, &roots)?;
    let path = scratch.path().to_owned();
    scratch.close().with_context(|| format!("cannot remove {}", path.display()))?;
    Ok((sample, result))
}

/// The result in every copy, which must be the same.
fn check_copies(tree: &Tree, roots: &[PathBuf]) -> Result<TreeResult> {
    let mut result = None;
    for root in roots {
        let copy = TreeResult::read(tree, root)?;
        let first = result.get_or_insert_with(|| copy.clone());
        ensure!(*first == copy, "{} differs from the first copy", root.display());
    }
    result.context("--copies must be at least 1")
}
