//! Suites that others wrote, and real work: is a mount a file system that people can work in?
//!
//! Each runs on a mount and on a local directory in one go, and compares. What a mount does not
//! offer yet is found out by asking it, and said; it is no failure and no success.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bftfs_dev::{DevCluster, Mode, MountGuard, MountOptions, UpOptions};
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use tempfile::TempDir;

use crate::output;

mod ext4;
mod features;
pub(crate) mod fsx;
mod limited;
pub(crate) mod pjdfstest;
mod tool;
pub(crate) mod workloads;

/// Something that this machine lacks and cannot get, so that a suite cannot be run at all.
#[derive(Debug)]
pub(crate) struct NotThere(pub(crate) String);

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotThere {}

/// Options of every suite.
#[derive(Debug, Args)]
struct Place {
    /// Where the cluster keeps its data: a directory on a disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Place {
    /// Starts a cluster there, unless its report could not be written afterwards.
    fn site(&self) -> Result<Site> {
        self.json.as_deref().map_or(Ok(()), output::check_writable)?;
        Site::new(&self.dir)
    }

    fn write(&self, report: &impl Serialize) -> Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        output::write(file, &(serde_json::to_string_pretty(report)? + "\n"))
    }
}

/// A cluster, and a place beside it for whatever a suite needs.
#[derive(Debug)]
struct Site {
    // Stopped before its directory is removed.
    cluster: DevCluster,
    dir: TempDir,
}

impl Site {
    /// Four replicas in a new directory below `parent`, which every user may enter.
    fn new(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bftfs-bench-").tempdir_in(parent);
        let dir = dir.with_context(|| format!("--dir {}", parent.display()))?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let cluster = DevCluster::up(&UpOptions::new(&dir.path().join("cluster")))?;
        Ok(Self { cluster, dir })
    }

    /// Makes a local directory.
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Mounts the cluster on a new directory as a local disk is mounted: for all users, with
    /// devices and set-user-ID programs.
    fn mount(&self, name: &str, mode: Mode) -> Result<MountGuard> {
        self.mount_as(name, mode, "bftfs")
    }

    /// The same with this name of the file system's type, which mount(8) looks for a program by.
    fn mount_as(&self, name: &str, mode: Mode, subtype: &str) -> Result<MountGuard> {
        let mut options = MountOptions::new(&self.directory(name)?, mode);
        let words = format!("allow_other,suid,dev,subtype={subtype}");
        options.extra = vec!["-o".to_owned(), words];
        self.cluster.mount(&options)
    }
}

/// An empty table.
fn table<const N: usize>(titles: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(titles);
    table
}
