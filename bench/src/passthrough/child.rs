//! The passthrough file system in a process of its own, as a target of the benchmarks.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use super::Caching;
use crate::target::{Backing, Counters};

/// How long mounting and unmounting may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it has happened.
const POLL: Duration = Duration::from_millis(5);

/// A running passthrough; dropping it unmounts.
#[derive(Debug)]
pub(crate) struct PassthroughChild {
    data: PathBuf,
    mount_point: PathBuf,
    caching: Caching,
    child: Child,
}

impl PassthroughChild {
    /// Mounts a passthrough to `dir/data` on `dir/mnt`, making both.
    ///
    /// # Errors
    /// If it is not mounted within 10 s.
    pub(crate) fn mount(dir: &Path, caching: Caching) -> Result<Self> {
        let (data, mount_point) = (dir.join("data"), dir.join("mnt"));
        for path in [&data, &mount_point] {
            fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let child = start(&data, &mount_point, caching)?;
        Ok(Self { data, mount_point, caching, child })
    }

    /// The directory below.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    fn stop(&mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                // Detach first: a killed server would leave a stale mount.
                rustix::mount::unmount(&self.mount_point, UnmountFlags::DETACH)?;
                self.child.kill()?;
                self.child.wait()?;
                bail!("it did not end within {PATIENCE:?} and was killed");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

/// Starts the process and waits until it is mounted.
fn start(data: &Path, mount_point: &Path, caching: Caching) -> Result<Child> {
    use std::os::unix::process::CommandExt as _;
    let program = env::current_exe().context("cannot find this program")?;
    let mut child = Command::new(program)
        .args(["passthrough", "--die-with-parent"])
        .args((caching == Caching::Direct).then_some("--direct-io"))
        .args([data, mount_point])
        .stdin(Stdio::null())
        // Out of the terminal's group: Ctrl-C must not unmount before the cleaning up.
        .process_group(0)
        .spawn()
        .context("cannot start the passthrough process")?;
    let unmounted = device(data)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the passthrough process ended: {status}");
        }
        if device(mount_point).is_ok_and(|device| device != unmounted) {
            return Ok(child);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{} is not mounted after {PATIENCE:?}", mount_point.display());
        }
        thread::sleep(POLL);
    }
}

fn device(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata(path).with_context(|| format!("cannot stat {}", path.display()))?.dev())
}

impl Backing for PassthroughChild {
    fn pids(&self) -> Vec<u32> {
        vec![self.child.id()]
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn remount(&mut self) -> Result<()> {
        self.stop()?;
        self.child = start(&self.data, &self.mount_point, self.caching)?;
        Ok(())
    }
}

impl Drop for PassthroughChild {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("cannot unmount {} cleanly: {error:#}", self.mount_point.display());
        }
    }
}
