//! A cluster with a mount.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bftfs_dev::{Counters, DevCluster, Lie, Mode, MountGuard, MountOptions, UpOptions};
use tempfile::TempDir;

use crate::interrupt;

/// Time after which something is taken for broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that is awaited.
const POLL: Duration = Duration::from_millis(5);

/// Four replicas and a mount in strict mode. Dropping it unmounts, stops and removes everything.
#[derive(Debug)]
pub(super) struct Site {
    // In the order in which they have to go.
    pub(super) mount: MountGuard,
    pub(super) cluster: DevCluster,
    _dir: TempDir,
}

impl Site {
    /// Sets one up, with these liars in it.
    pub(super) fn new(parent: &Path, byzantine: BTreeMap<u32, Lie>) -> Result<Self> {
        let dir = tempfile::tempdir_in(parent)?;
        let options = UpOptions { byzantine, ..UpOptions::new(&dir.path().join("cluster")) };
        let cluster = DevCluster::up(&options)?;
        let point = dir.path().join("mnt");
        fs::create_dir(&point)?;
        let mount = cluster.mount(&MountOptions::new(&point, Mode::Strict))?;
        Ok(Self { mount, cluster, _dir: dir })
    }

    /// The view that the latest replica is in.
    pub(super) fn latest(&self) -> Result<Counters> {
        let known = self.cluster.status().into_iter().filter_map(|replica| replica.counters);
        known.max_by_key(|counters| counters.view).context("no replica answers")
    }

    /// The last sequence number that any replica has executed.
    pub(super) fn executed(&self) -> Result<u64> {
        let known = self.cluster.status().into_iter().filter_map(|replica| replica.counters);
        known.map(|counters| counters.last_executed).max().context("no replica answers")
    }

    /// Bytes that the file system says are used.
    pub(super) fn used(&self) -> Result<u64> {
        let statvfs = rustix::fs::statvfs(self.mount.point())?;
        Ok(statvfs.f_blocks.saturating_sub(statvfs.f_bfree) * statvfs.f_frsize)
    }

    /// Waits until replica `id` has executed up to `seq`, in a view that has begun.
    pub(super) fn wait_for(&self, id: u32, seq: u64) -> Result<Counters> {
        let up = || {
            let counters = self.cluster.status_of(id).counters?;
            (counters.active && counters.last_executed >= seq).then_some(counters)
        };
        wait_for(&format!("replica {id} at {seq}"), up)
    }

    /// Waits until every replica is where the others were when this was called.
    pub(super) fn settle(&self) -> Result<()> {
        let seq = self.executed()?;
        (0..self.cluster.replicas()).try_for_each(|id| self.wait_for(id, seq).map(|_| ()))
    }
}

/// Looks until there is something.
pub(super) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt::check()?;
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        thread::sleep(POLL);
    }
}
