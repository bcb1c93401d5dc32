//! A peer's mount, and the servers behind it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::mount::UnmountFlags;

use super::daemon::{Daemon, run};
use crate::target::{Backing, Counters};

/// How long a file system may stay busy, and its process take to end after it is unmounted.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a peer is mounted.
#[derive(Debug)]
pub(super) enum How {
    /// By a process that stays in the foreground.
    Process(Vec<OsString>),
    /// By the kernel, with mount(8) and these arguments.
    Kernel(Vec<OsString>),
}

/// A mount; dropping it unmounts, then ends the servers that nobody else uses.
#[derive(Debug)]
pub(crate) struct PeerMount {
    point: PathBuf,
    how: How,
    process: Option<Daemon>,
    servers: Vec<Rc<Daemon>>,
}

impl PeerMount {
    /// Mounts on the empty directory `point`.
    ///
    /// # Errors
    /// If it does not mount in time.
    pub(super) fn new(point: PathBuf, how: How, servers: Vec<Rc<Daemon>>) -> Result<Self> {
        let mut this = Self { point, how, process: None, servers };
        this.mount()?;
        Ok(this)
    }

    /// Where it is mounted.
    pub(crate) fn point(&self) -> &Path {
        &self.point
    }

    /// The process of the mount, to wait for what it has to reach.
    pub(super) fn process(&mut self) -> Result<&mut Daemon> {
        self.process.as_mut().context("it is not mounted by a process")
    }

    fn mount(&mut self) -> Result<()> {
        let command = match &self.how {
            How::Kernel(arguments) => {
                run("mount", arguments)?;
                return Ok(());
            }
            How::Process(command) => command,
        };
        let log = self.point.with_extension("log");
        let process = self.process.insert(Daemon::mount(log, command)?);
        let parent = self.point.parent().context("a mount point has a parent")?;
        let unmounted = fs::metadata(parent)?.dev();
        let point = &self.point;
        process.wait("the mount", || fs::metadata(point).is_ok_and(|it| it.dev() != unmounted))
    }

    fn unmount(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut flags = UnmountFlags::empty();
        while let Err(error) = rustix::mount::unmount(&self.point, flags) {
            match error {
                // Never mounted, or the process has unmounted it.
                rustix::io::Errno::INVAL => break,
                _ if flags == UnmountFlags::DETACH => return Err(error.into()),
                // A process that has ended leaves a mount that is only detached.
                _ if Instant::now() > deadline => flags = UnmountFlags::DETACH,
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
        if let Some(mut process) = self.process.take() {
            process.end(PATIENCE);
        }
        Ok(())
    }
}

impl Backing for PeerMount {
    fn pids(&self) -> Vec<u32> {
        let servers = self.servers.iter().map(Rc::as_ref);
        servers.chain(&self.process).flat_map(Daemon::pids).collect()
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn is_peer(&self) -> bool {
        true
    }

    fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }
}

impl Drop for PeerMount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("cannot unmount {}: {error:#}", self.point.display());
        }
    }
}
