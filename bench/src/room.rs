//! Whether the machine has room, before something large is written and while it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::bytes::Bytes;

/// Bytes of the disk that are never taken: others use it too.
const DISK_SPARED: u64 = 2 << 30;
/// Bytes of memory that are never taken: beyond, the kernel would end some process to make room.
const MEMORY_SPARED: u64 = 1 << 30;

/// The disk that a directory is on, and the machine's memory.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
}

impl Room {
    /// Looks after the disk of `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Says before anything is written that `what`, which takes about so much, will not fit.
    pub(crate) fn require(&self, disk: u64, what: &str) -> Result<()> {
        let free = disk_free(&self.dir)?;
        ensure!(
            disk.saturating_add(DISK_SPARED) <= free,
            "{what} takes about {} of the disk of {}, which has {} free, and {} are left to \
             others: ask for less, or choose another --dir",
            Bytes(disk),
            self.dir.display(),
            Bytes(free),
            Bytes(DISK_SPARED)
        );
        Ok(())
    }

    /// Fails before the disk is full or memory is at its end.
    pub(crate) fn check(&self) -> Result<()> {
        let free = disk_free(&self.dir)?;
        if free < DISK_SPARED {
            bail!(
                "stopped before the disk of {} is full: only {} are free",
                self.dir.display(),
                Bytes(free)
            );
        }
        let free = memory_free()?;
        if free < MEMORY_SPARED {
            bail!("stopped before memory is at its end: only {} are available", Bytes(free));
        }
        Ok(())
    }
}

fn disk_free(dir: &Path) -> Result<u64> {
    let statvfs = rustix::fs::statvfs(dir);
    let statvfs = statvfs.with_context(|| format!("cannot see how full {} is", dir.display()))?;
    Ok(statvfs.f_bavail.saturating_mul(statvfs.f_frsize))
}

/// What programs can still get without anything being swapped, proc_meminfo(5).
fn memory_free() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.context("/proc/meminfo has no MemAvailable")? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_disk_has_is_refused_beforehand() {
        let dir = tempfile::tempdir().expect("a folder");
        let room = Room::of(dir.path());
        let error = room.require(1 << 60, "all this").expect_err("no disk is that large");
        assert!(error.to_string().starts_with("all this takes about"), "{error}");
    }

    #[test]
    fn memory_is_known() {
        assert!(memory_free().expect("a number") > 0);
    }
}
