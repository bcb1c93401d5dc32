//! One replica, or a few of which one is looked at, and a mount.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bftfs_dev::{
    Counters, DevCluster, Durability, Mode, MountGuard, MountOptions, Process, UpOptions,
};
use bftfs_proto::config::CHECKPOINT_INTERVAL_SEQS;
use serde::Serialize;
use tempfile::TempDir;

use super::client::Client;
use crate::bytes::Bytes;
use crate::interrupt;
use crate::procstat;
use crate::room::Room;
use crate::stats::Summary;

/// The only replica, or the one that is looked at: the primary of the first view.
const ID: u32 = 0;
/// The name of the cluster's client.
const CLIENT: &str = "bench";
/// Time after which something is taken for broken.
const PATIENCE: Duration = Duration::from_secs(600);
/// Time without a byte written after which the store is taken to have nothing more to write.
const QUIET: Duration = Duration::from_millis(500);
/// Pause between two looks at whether the replica writes.
const POLL: Duration = Duration::from_millis(2);
/// Pause between two questions to the replica.
const STATUS_POLL: Duration = Duration::from_millis(50);

/// How sites are set up.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Where they keep their data.
    pub(super) parent: PathBuf,
    pub(super) replicas: u32,
    pub(super) durability: Durability,
    pub(super) mode: Mode,
}

/// Replicas and a mount. Dropping it unmounts, stops and removes everything.
#[derive(Debug)]
pub(super) struct Site {
    // In the order in which they have to go.
    mount: Option<MountGuard>,
    cluster: DevCluster,
    options: MountOptions,
    room: Room,
    _dir: TempDir,
}

/// Bytes that were written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// By the replica's calls.
    replica: u64,
    /// By the disk, whoever asked for it; `None` where that is not known.
    disk: Option<u64>,
}

/// The same, between two moments and over all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct WrittenBytes {
    pub(super) replica: Summary,
    pub(super) disk: Option<Summary>,
}

impl Written {
    /// What was written since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        let disk = self.disk.zip(before.disk).map(|(after, before)| after.saturating_sub(before));
        Self { replica: self.replica.saturating_sub(before.replica), disk }
    }

    /// Sums up rounds, of which there is at least one.
    pub(super) fn summary(rounds: &[Self]) -> Result<WrittenBytes> {
        let replica: Vec<_> = rounds.iter().map(|round| round.replica as f64).collect();
        let disk: Option<Vec<_>> = rounds.iter().map(|round| Some(round.disk? as f64)).collect();
        let replica = Summary::of(&replica).context("nothing was written in no round")?;
        Ok(WrittenBytes { replica, disk: disk.and_then(|disk| Summary::of(&disk)) })
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} written by the replica", Bytes(self.replica))?;
        self.disk.map_or(Ok(()), |disk| write!(f, ", {} by the disk", Bytes(disk)))
    }
}

/// Resident memory of the replica.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Memory {
    /// Now.
    pub(super) resident: Bytes,
    /// At most, since the process started.
    pub(super) peak: Bytes,
}

impl Site {
    /// Sets one up, mounted.
    pub(super) fn new(plan: &Plan) -> Result<Self> {
        let dir = tempfile::tempdir_in(&plan.parent)?;
        let cluster = DevCluster::up(&UpOptions {
            replicas: plan.replicas,
            durability: plan.durability,
            clients: vec![CLIENT.to_owned()],
            ..UpOptions::new(&dir.path().join("cluster"))
        })?;
        let point = dir.path().join("mnt");
        fs::create_dir(&point)?;
        let options = MountOptions::new(&point, plan.mode);
        let mount = Some(cluster.mount(&options)?);
        Ok(Self { mount, cluster, options, room: Room::of(dir.path()), _dir: dir })
    }

    /// Where it is mounted.
    pub(super) fn point(&self) -> &Path {
        &self.options.point
    }

    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    /// A client beside the mount.
    pub(super) fn client(&self) -> Result<Client> {
        Client::connect(&self.cluster, CLIENT)
    }

    /// Unmounts, so that nobody but a client beside the mount asks anything of the replica.
    pub(super) fn unmount(&mut self) -> Result<()> {
        self.mount.take().map_or(Ok(()), MountGuard::unmount)
    }

    /// Mounts again, with nothing in the kernel's caches of the mount.
    pub(super) fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount = Some(self.cluster.mount(&self.options)?);
        Ok(())
    }

    pub(super) fn process(&self) -> Result<Process> {
        self.cluster.replica(ID)
    }

    /// Starts the replica, which has ended.
    pub(super) fn start(&self) -> Result<()> {
        self.cluster.restart(ID)
    }

    /// What the replica says of itself, as soon as it has time for that.
    pub(super) fn counters(&self) -> Result<Counters> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.cluster.status_of(ID);
            if let Some(counters) = status.counters {
                return Ok(counters);
            }
            if status.pid.is_none() {
                bail!("the replica ended:\n{}", self.process()?.log_tail());
            }
            interrupt::check()?;
            ensure!(Instant::now() < deadline, "the replica does not answer");
            thread::sleep(STATUS_POLL);
        }
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let pid = self.pid()?;
        let resident = Bytes(procstat::memory(pid, "VmRSS")?);
        Ok(Memory { resident, peak: Bytes(procstat::memory(pid, "VmHWM")?) })
    }

    /// What has been written since the replica and the machine started, with nothing left that
    /// the kernel still has to write.
    pub(super) fn written(&self) -> Result<Written> {
        rustix::fs::sync();
        let replica = procstat::written(self.pid()?)?;
        Ok(Written { replica, disk: procstat::disk_written(self.cluster.dir()) })
    }

    fn pid(&self) -> Result<u32> {
        self.process()?.pid().context("the replica has ended")
    }

    /// Lets the replica take a checkpoint, and waits until it has nothing more to write. Then the last number is that of a checkpoint.
    pub(super) fn settle(&self, client: &Client) -> Result<()> {
        let next = next_checkpoint(self.counters()?.last_executed);
        self.advance(client, next)?;
        let deadline = Instant::now() + PATIENCE;
        while self.counters()?.last_stable < next {
            interrupt::check()?;
            ensure!(Instant::now() < deadline, "the checkpoint at {next} does not become stable");
            // Not often: answers are written, too.
            thread::sleep(STATUS_POLL);
        }
        self.wait_until_quiet()
    }

    /// Has nothings ordered until `seq` is executed.
    pub(super) fn advance(&self, client: &Client, seq: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            interrupt::check()?;
            let executed = self.counters()?.last_executed;
            if executed >= seq {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the replica stays at {executed}");
            // Alone and one after the other, each is a batch.
            (executed..seq).try_for_each(|_| client.null())?;
        }
    }

    /// Waits until the replica writes no more. It has no word for that, so it is watched.
    pub(super) fn wait_until_quiet(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let dirtied = || procstat::dirtied(self.pid()?);
        let (mut before, mut since) = (dirtied()?, Instant::now());
        while since.elapsed() < QUIET {
            interrupt::check()?;
            ensure!(Instant::now() < deadline, "the replica writes without end");
            thread::sleep(POLL);
            let now = dirtied()?;
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

/// The number of the first checkpoint after `seq`.
pub(super) fn next_checkpoint(seq: u64) -> u64 {
    (seq / CHECKPOINT_INTERVAL_SEQS + 1) * CHECKPOINT_INTERVAL_SEQS
}
