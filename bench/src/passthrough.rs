//! A FUSE file system that passes every call to a directory: the least that any FUSE mount costs.
//!
//! Like ours it lets the kernel cache neither entries nor attributes (time to live 0). File
//! contents are cached and dropped when a file's times or size change, or never cached, as ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use fuser::{Config, Filesystem, MountOption, Session, SessionACL, SessionUnmounter};
use rustix::mount::UnmountFlags;
use rustix::process::{Resource, Rlimit, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub(crate) mod child;
mod convert;
mod filesystem;
mod nodes;

use filesystem::Passthrough;
pub(crate) use nodes::{Handles, lock};

/// Threads that take requests from the kernel: enough that one fsync does not stop the rest.
const THREADS: usize = 4;
/// How long open files may keep a detached mount alive before the process ends all the same.
const DETACH_GRACE: Duration = Duration::from_secs(1);

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

    let mut config = config("bftfs-passthrough");
    if options.allow_other {
        config.mount_options.push(MountOption::DefaultPermissions);
        config.acl = SessionACL::All;
    }
    serve(filesystem, &mount_point, &config)
}

/// Mounts and serves until SIGINT, SIGTERM, SIGHUP or an unmount.
///
/// # Errors
/// If FUSE is missing or fails.
pub(crate) fn serve(
    filesystem: impl Filesystem + 'static,
    mount_point: &Path,
    config: &Config,
) -> Result<()> {
    let mut session = Session::new(filesystem, mount_point, config).with_context(|| {
        format!("cannot mount on {}; is /dev/fuse there, and fusermount3?", mount_point.display())
    })?;
    let unmounter = session.unmount_callable();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let mount_point = mount_point.to_owned();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            leave(unmounter, &mount_point);
        }
    });
    session.run().context("the FUSE session failed")
}

/// A mount that is told by the name `name`.
pub(crate) fn config(name: &str) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName(name.to_owned())];
    config.n_threads = Some(THREADS);
    config
}

/// Every inode that the kernel knows is an open file here.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        eprintln!("warning: cannot raise the limit of open files: {error}");
    }
}

/// Unmounts; a busy mount is detached, so that nothing stale stays behind.
fn leave(mut unmounter: SessionUnmounter, mount_point: &Path) {
    if unmounter.unmount().is_ok() {
        return;
    }
    eprintln!("{} is busy: detaching it", mount_point.display());
    if let Err(error) = rustix::mount::unmount(mount_point, UnmountFlags::DETACH) {
        eprintln!("cannot detach {}: {error}", mount_point.display());
    }
    thread::sleep(DETACH_GRACE);
    std::process::exit(1);
}
