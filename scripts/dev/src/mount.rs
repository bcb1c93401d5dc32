//! Mounts of a development cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use crate::binaries::command;
use crate::cluster::DevCluster;
use crate::process::{Process, wait_until};
use crate::status::{self, Counters};

/// Time that a mount has to answer.
const MOUNT_PATIENCE: Duration = Duration::from_secs(60);
/// Time that a mount has to end after SIGTERM before it is unmounted by force.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(15);

/// How reads are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Reads are ordered operations and move atime, as POSIX says
    Strict,
    /// As in ro-lookup, but the first read after a change, and one a day, moves atime
    #[default]
    Relatime,
    /// Reads take what a quorum answers without ordering; atime stays
    RoLookup,
}

impl Mode {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relatime => "relatime",
            Self::RoLookup => "ro-lookup",
        }
    }
}

/// How to mount a cluster.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The directory to mount on, which must be there and empty.
    pub point: PathBuf,
    /// How reads are carried out.
    pub mode: Mode,
    /// The client to be; the cluster's first if `None`.
    pub client: Option<String>,
    /// The cluster file to use; the cluster's own if `None`.
    pub cluster_file: Option<PathBuf>,
    /// The CPUs that the mount runs on, as taskset(1) lists them; all if `None`.
    pub pin: Option<String>,
    /// Further arguments of `bftfs-mount`.
    pub extra: Vec<String>,
}

impl MountOptions {
    /// A mount on `point` by the cluster's first client.
    #[must_use]
    pub fn new(point: &Path, mode: Mode) -> Self {
        Self {
            point: point.to_owned(),
            mode,
            client: None,
            cluster_file: None,
            pin: None,
            extra: Vec::new(),
        }
    }
}

/// A mount. Dropping it unmounts.
#[derive(Debug)]
pub struct MountGuard {
    folder: PathBuf,
    point: PathBuf,
    owned: bool,
}

impl MountGuard {
    pub(crate) fn mount(cluster: &DevCluster, options: &MountOptions) -> Result<Self> {
        let point = resolve(&options.point)?;
        let folder = new_folder(cluster.dir())?;
        fs::write(folder.join("point"), point.as_os_str().as_encoded_bytes())?;
        let guard = Self { folder, point, owned: true };
        guard.process().start(&mut guard.command(cluster, options)?)?;
        guard.wait_until_mounted()?;
        Ok(guard)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> Process {
        Process::at(&self.folder)
    }

    /// What it has counted.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn counters(&self) -> Result<Counters> {
        status::query(&self.socket())
    }

    /// Lets the mount be when this is dropped.
    pub fn leave_mounted(mut self) {
        self.owned = false;
    }

    /// Unmounts: cleanly if that is possible, lazily if not.
    ///
    /// # Errors
    /// If it cannot be unmounted at all.
    pub fn unmount(mut self) -> Result<()> {
        self.owned = false;
        end(&self.folder)
    }

    fn command(&self, cluster: &DevCluster, options: &MountOptions) -> Result<Command> {
        let client = options.client.as_deref().unwrap_or_else(|| cluster.default_client());
        let keys = cluster.dir().join(format!("client-{client}"));
        let mut mount = command("bftfs-mount", options.pin.as_deref())?;
        let own = options.cluster_file.clone().unwrap_or_else(|| cluster.cluster_file());
        mount.arg("--cluster").arg(own);
        mount.arg("--cert").arg(keys.join("client.crt"));
        mount.arg("--key").arg(keys.join("client.key"));
        mount.args(["--mode", options.mode.name()]);
        mount.arg("--stats-socket").arg(self.socket());
        mount.args(&options.extra).arg(&self.point);
        cluster.set_log(&mut mount);
        Ok(mount)
    }

    fn wait_until_mounted(&self) -> Result<()> {
        let process = self.process();
        wait_until(MOUNT_PATIENCE, || process.pid().is_none() || self.answers());
        ensure!(
            process.pid().is_some() && self.answers(),
            "{} could not be mounted: {}",
            self.point.display(),
            process.log_tail()
        );
        Ok(())
    }

    fn answers(&self) -> bool {
        is_mounted(&self.point) && fs::metadata(&self.point).is_ok()
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("stats.sock")
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = end(&self.folder)
        {
            eprintln!("cannot unmount {}: {error:#}", self.point.display());
        }
    }
}

/// Unmounts `point`, which a mount of the cluster in `dir` is on.
///
/// # Errors
/// If none is, or it cannot be unmounted.
pub fn unmount(dir: &Path, point: &Path) -> Result<()> {
    let point = resolve(point)?;
    for folder in folders(dir)? {
        if point_of(&folder)? == point && Process::at(&folder).pid().is_some() {
            return end(&folder);
        }
    }
    anyhow::bail!("{} is no mount of the cluster in {}", point.display(), dir.display())
}

/// Unmounts everything of the cluster in `dir`. Returns what went wrong.
pub(crate) fn unmount_all(dir: &Path) -> Result<Vec<Error>> {
    Ok(folders(dir)?.iter().filter_map(|folder| end(folder).err()).collect())
}

/// Whether a file system is mounted on exactly this path, answering or not.
#[must_use]
pub fn is_mounted(point: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = escape(point);
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(wanted.as_str()))
}

/// A path as `/proc/self/mountinfo` writes it, proc_pid_mountinfo(5).
fn escape(path: &Path) -> String {
    let path = path.to_string_lossy();
    path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

/// Ends the mount whose folder this is, if it is there.
fn end(folder: &Path) -> Result<()> {
    let (process, point) = (Process::at(folder), point_of(folder)?);
    if process.pid().is_some() {
        process.signal(Signal::TERM)?;
        process.signal(Signal::CONT)?;
        if !process.ended_within(UNMOUNT_PATIENCE) {
            // A lazy unmount frees the name at once; killing then fails what still waits.
            detach(&point)?;
            process.kill()?;
        }
    }
    // Left behind by a process that was killed; a mount of somebody else is not ours to end.
    if process.is_recorded() && is_mounted(&point) && is_dead(&point) {
        detach(&point)?;
    }
    process.forget()
}

fn is_dead(point: &Path) -> bool {
    fs::metadata(point).is_err_and(|e| e.kind() == std::io::ErrorKind::NotConnected)
}

fn detach(point: &Path) -> Result<()> {
    if !is_mounted(point) {
        return Ok(());
    }
    if rustix::mount::unmount(point, UnmountFlags::DETACH).is_ok() {
        return Ok(());
    }
    let fusermount = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(point).output();
    let output = fusermount.context("cannot run fusermount3")?;
    ensure!(
        output.status.success() || !is_mounted(point),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The absolute path of a mount point, which itself may no longer answer.
fn resolve(point: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(point)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        anyhow::bail!("{} cannot be mounted on", point.display());
    };
    let parent = fs::canonicalize(parent)
        .with_context(|| format!("mount point {}: no such directory", point.display()))?;
    Ok(parent.join(name))
}

/// Makes the folder of one more mount.
fn new_folder(dir: &Path) -> Result<PathBuf> {
    let mounts = dir.join("mounts");
    fs::create_dir_all(&mounts)?;
    for number in 0_u32.. {
        let folder = mounts.join(number.to_string());
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context(format!("cannot make {}", folder.display())),
        }
    }
    anyhow::bail!("{} is full", mounts.display())
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let mounts = dir.join("mounts");
    match fs::read_dir(&mounts) {
        // One without a mount point was never mounted.
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path()))
            .filter(|folder| folder.as_ref().map_or(true, |f: &PathBuf| f.join("point").exists()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", mounts.display())),
    }
}

fn point_of(folder: &Path) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let file = folder.join("point");
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_is_mounted() {
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")));
    }

    #[test]
    fn a_path_is_escaped_as_the_kernel_does() {
        assert_eq!(escape(Path::new("/a b\\c")), "/a\\040b\\134c");
    }

    #[test]
    fn a_mount_point_is_made_absolute_even_if_it_is_missing() {
        let dir = tempfile::tempdir().expect("a folder");
        let real = fs::canonicalize(dir.path()).expect("its path");
        assert_eq!(resolve(&dir.path().join("x")).expect("its parent is there"), real.join("x"));
        assert!(resolve(&dir.path().join("x/y")).is_err());
    }

    #[test]
    fn mounts_get_folders_of_their_own() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(folders(dir.path()).expect("none yet").is_empty());
        let first = new_folder(dir.path()).expect("a folder");
        let second = new_folder(dir.path()).expect("another");
        assert_ne!(first, second);
        assert!(folders(dir.path()).expect("neither was mounted").is_empty());
        fs::write(second.join("point"), "/nowhere").expect("a mount point");
        assert_eq!(folders(dir.path()).expect("one was"), [second]);
    }
}
