//! Random calls through several mounts of one cluster: after each, another mount shows what a local
//! directory shows.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::{Mode, MountGuard};

use crate::lab::with_cluster;
use crate::mirror::{Call, compare, look};
use crate::workload::Numbers;

const MOUNTS: [(&str, Mode); 3] =
    [("one", Mode::Strict), ("two", Mode::RoLookup), ("three", Mode::Strict)];
/// Each seed is a history of its own, in a directory of its own.
const SEEDS: u64 = 5;
/// Calls of each seed.
const CALLS: u32 = 400;

#[test]
fn several_mounts_together_do_what_one_local_directory_does() {
    with_cluster(4, |lab| {
        let local = lab.directory("local")?;
        let mounts = MOUNTS.map(|(name, mode)| lab.mount(name, mode));
        let mounts = mounts.into_iter().collect::<Result<Vec<_>>>()?;
        for seed in 0..SEEDS {
            let place = format!("seed-{seed}");
            fs::create_dir(local.join(&place))?;
            fs::create_dir(mounts[0].point().join(&place))?;
            let points: Vec<_> = mounts.iter().map(|mount| mount.point().join(&place)).collect();
            work(seed, &local.join(&place), &points).with_context(|| place.clone())?;
            for point in &points {
                compare(&local.join(&place), point).with_context(|| place.clone())?;
            }
        }
        mounts.into_iter().try_for_each(MountGuard::unmount)
    });
}

/// Each call is made through any mount, and what it has changed is looked at through any other.
fn work(seed: u64, local: &Path, points: &[impl AsRef<Path>]) -> Result<()> {
    let mut numbers = Numbers::new(seed);
    let mut any = |bound: usize| {
        let number = numbers.below(bound as u64);
        (usize::try_from(number).expect("it is small"), Call::any(&mut numbers))
    };
    for number in 0..CALLS {
        let (by, call) = any(points.len());
        let (further, _) = any(points.len() - 1);
        let other = (by + 1 + further) % points.len();
        let here = call.perform(local);
        let there = call.perform(points[by].as_ref());
        ensure!(
            here == there,
            "call {number}: {call:?} answers {here:?} locally and {there:?} on mount {by}"
        );
        for name in call.names() {
            let parent = Path::new(name).parent().expect("it is no root");
            for path in [Path::new(name), parent] {
                let [here, there] =
                    [local, points[other].as_ref()].map(|place| look(&place.join(path)));
                let (here, there) = (here?, there?);
                ensure!(
                    here == there,
                    "call {number}: after {call:?} on mount {by}, {} is {there} on mount {other}, \
                     and {here} locally",
                    path.display()
                );
            }
        }
    }
    Ok(())
}
