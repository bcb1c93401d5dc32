//! What is measured: a directory, and the processes that serve it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::clusters::Replicas;
use crate::procstat;

/// The file system under a target, as far as a benchmark may look behind it.
pub(crate) trait Backing: fmt::Debug {
    /// The servers' and mounts' processes, for CPU accounting; empty if there are none to know.
    fn pids(&self) -> Vec<u32>;

    /// What these processes have counted since they started; `None` if they do not count.
    ///
    /// # Errors
    /// If a process that should answer does not.
    fn counters(&self) -> Result<Option<Counters>>;

    /// Unmounts and mounts again, for cold caches; nothing where there is no mount of ours.
    ///
    /// # Errors
    /// If the directory cannot be mounted again.
    fn remount(&mut self) -> Result<()>;

    /// Whether it is a file system of others, whose failure does not end a benchmark.
    fn is_peer(&self) -> bool {
        false
    }

    /// The replicas of bftfs behind the mount, if there are any.
    fn replicas(&self) -> Option<Replicas> {
        None
    }
}

/// Counters of all processes of a target together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counters {
    /// Protocol messages sent, by replicas and mounts.
    pub messages: u64,
    /// Operations that the replicas have carried out for the mount.
    pub operations: u64,
}

/// A directory that somebody else has mounted, or that is simply there.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Its processes, if the person told us.
    pub pids: Vec<u32>,
}

impl Backing for Given {
    fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn remount(&mut self) -> Result<()> {
        Ok(())
    }
}

/// One column of a benchmark.
#[derive(Debug)]
pub(crate) struct Target {
    /// The column's name.
    pub name: String,
    /// Where the benchmark works; it leaves nothing there.
    pub dir: PathBuf,
    /// What stands behind the directory.
    pub backing: Box<dyn Backing>,
}

impl Target {
    /// A target on a directory that is there, with the processes that serve it.
    ///
    /// # Errors
    /// If the directory is none.
    pub(crate) fn given(name: &str, dir: &Path, pids: Vec<u32>) -> Result<Self> {
        let dir = fs::canonicalize(dir)
            .with_context(|| format!("--target {name}: cannot find {}", dir.display()))?;
        ensure!(dir.is_dir(), "--target {name}: {} is not a directory", dir.display());
        Ok(Self { name: name.to_owned(), dir, backing: Box::new(Given { pids }) })
    }

    /// Begins to count what the target's processes use.
    ///
    /// # Errors
    /// If one of them cannot be measured.
    pub(crate) fn meter(&self) -> Result<Meter> {
        let pids = self.backing.pids();
        let cpu = procstat::cpu_time(&pids)?;
        Ok(Meter { counters: self.backing.counters()?, cpu, pids })
    }

    /// What they have used since `meter` was made. Nothing is known if one of them has ended, or
    /// was replaced, in between: a benchmark goes on when a replica is killed.
    ///
    /// # Errors
    /// If a process that should answer does not.
    pub(crate) fn usage(&self, meter: &Meter) -> Result<Usage> {
        let (Ok(cpu), true) = (procstat::cpu_time(&meter.pids), self.backing.pids() == meter.pids)
        else {
            eprintln!("target {}: a process has ended; CPU time is unknown", self.name);
            return Ok(Usage::default());
        };
        let counters = self.backing.counters()?;
        Ok(Usage {
            cpu: (!meter.pids.is_empty()).then(|| cpu.saturating_sub(meter.cpu)),
            counters: counters.zip(meter.counters).map(|(after, before)| Counters {
                messages: after.messages.saturating_sub(before.messages),
                operations: after.operations.saturating_sub(before.operations),
            }),
        })
    }
}

/// Readings at the beginning of a measurement.
#[derive(Debug)]
pub(crate) struct Meter {
    pids: Vec<u32>,
    cpu: Duration,
    counters: Option<Counters>,
}

/// What a target's processes used during a measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time, user and system; `None` where no process is known.
    pub cpu: Option<Duration>,
    /// Counted work; `None` where nobody counts.
    pub counters: Option<Counters>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_end_of_a_process_makes_its_use_unknown_and_no_more() {
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep(1) exists");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = Target::given("x", dir.path(), vec![child.id()]).expect("a directory");
        let meter = target.meter().expect("it runs");
        assert!(target.usage(&meter).expect("it still runs").cpu.is_some());
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert_eq!(target.usage(&meter).expect("that is no error"), Usage::default());
        assert!(target.meter().is_err(), "nothing begins with a process that is not there");
    }
}
