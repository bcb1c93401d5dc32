//! An NFSv3 mount in user space, for machines whose kernel has no NFS client.
//!
//! The kernel is told what `bftfs-mount` tells it: nothing is cached, neither names nor attributes
//! nor contents, and no write is kept back. So servers and protocols are compared, not caches.
//! It does what a benchmark needs: no locks, no special files, and a file that is removed while it
//! is open is gone, since NFS knows no open files and nothing is renamed here to hide that.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use fuser::MountOption;

use crate::serving;

mod client;
mod convert;
mod export;
mod filesystem;
mod nodes;

use client::Pool;
use export::Export;
use filesystem::Nfs;

/// When the server puts what is written onto its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Writes {
    /// Before it answers the write (FILE_SYNC), as NFSv2 had it.
    Sync,
    /// At COMMIT, which is sent by fsync(2) and close(2) (UNSTABLE).
    Async,
}

impl Writes {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

/// Options of `bftfs-bench nfs`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The server of NFS
    server: SocketAddr,
    /// The port of its mount protocol
    mount_port: u16,
    /// The directory that it exports
    export: String,
    /// Where to mount: an empty directory
    mount_point: PathBuf,
    /// When writes are to be on the server's disk
    #[arg(long, value_enum)]
    writes: Writes,
}

/// Mounts and serves until SIGINT, SIGTERM, SIGHUP or an unmount.
///
/// # Errors
/// If the server does not answer, or FUSE is missing.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mount_point = fs::canonicalize(&options.mount_point)
        .with_context(|| format!("cannot find {}", options.mount_point.display()))?;
    let (pool, root) = Pool::connect(options.server, options.mount_port, &options.export)
        .with_context(|| format!("no NFS export {} at {}", options.export, options.server))?;
    let export = Export::new(pool, root, options.writes)
        .map_err(|error| io::Error::from_raw_os_error(error.code()))
        .context("the server does not tell about its export")?;
    let mut config = serving::config("bftfs-nfs");
    config.mount_options.push(MountOption::DefaultPermissions);
    serving::serve(Nfs::new(export), &mount_point, &config)
}
