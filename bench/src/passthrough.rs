//! A FUSE file system that passes every call to a directory: the least that any FUSE mount costs.
//!
//! Like ours it lets the kernel cache neither entries nor attributes (time to live 0). File
//! contents are cached and dropped when a file's times or size change, or never cached, as ours.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use fuser::{MountOption, SessionACL};
use rustix::process::{Resource, Rlimit, Signal};

pub(crate) mod child;
mod convert;
mod filesystem;
mod nodes;

use crate::serving;
use filesystem::Passthrough;

/// What becomes of file contents in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caching {
    /// They are cached until the file changes.
    PageCache,
    /// Every read and write comes here.
    Direct,
}

/// Options of `bftfs-bench passthrough`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The directory to pass everything to
    dir: PathBuf,
    /// Where to mount: an empty directory
    mount_point: PathBuf,
    /// Let other users in; the kernel then checks permissions
    #[arg(long)]
    allow_other: bool,
    /// Reads and writes pass the page cache by, as in a mount of a cluster
    #[arg(long)]
    direct_io: bool,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

/// Mounts and serves until SIGINT, SIGTERM, SIGHUP or an unmount.
///
/// # Errors
/// If the directories are not usable or FUSE is missing.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.die_with_parent {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    }
    let mount_point = fs::canonicalize(&options.mount_point)
        .with_context(|| format!("cannot find {}", options.mount_point.display()))?;
    let entries = fs::read_dir(&mount_point)
        .with_context(|| format!("cannot list {}", mount_point.display()))?
        .count();
    ensure!(entries == 0, "{} is not empty", mount_point.display());
    let caching = if options.direct_io { Caching::Direct } else { Caching::PageCache };
    let filesystem = Passthrough::new(&options.dir, caching)
        .with_context(|| format!("cannot serve {}", options.dir.display()))?;
    raise_open_files();
    // The kernel has applied the caller's umask already.
    rustix::process::umask(rustix::fs::Mode::empty());

    let mut config = serving::config("bftfs-passthrough");
    if options.allow_other {
        config.mount_options.push(MountOption::DefaultPermissions);
        config.acl = SessionACL::All;
    }
    serving::serve(filesystem, &mount_point, &config)
}

/// Every inode that the kernel knows is an open file here.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        eprintln!("warning: cannot raise the limit of open files: {error}");
    }
}
