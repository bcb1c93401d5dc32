//! A mount in this process that goes away with its owner, also when a test panics.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bftfs_mount::fuse::Fuse;
use bftfs_mount::mountpoint;
use bftfs_mount::options::Options;
use bftfs_mount::stats::Stats;
use bftfs_mount::volume::{Mode, Volume};
use tempfile::TempDir;

use crate::double::{Double, Session};

/// A mounted test double.
#[derive(Debug)]
pub(crate) struct Mounted {
    directory: TempDir,
    session: Option<JoinHandle<std::io::Result<()>>>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) volume: Volume<Double>,
    pub(crate) replicas: Session,
}

/// Whether there is FUSE here. Without it tests fail, unless somebody said that is fine.
pub(crate) fn has_fuse() -> bool {
    if Path::new("/dev/fuse").exists() {
        return true;
    }
    let skip = std::env::var_os("BFTFS_SKIP_FUSE").is_some_and(|value| value == "1");
    assert!(skip, "/dev/fuse is missing: load FUSE (modprobe fuse) or set BFTFS_SKIP_FUSE=1");
    eprintln!("skipped: no /dev/fuse, and BFTFS_SKIP_FUSE=1");
    false
}

impl Mounted {
    /// Mounts a session of `double` on a new directory.
    pub(crate) fn new(double: &Double, mode: Mode) -> Self {
        Self::with_option(double, mode, "rw")
    }

    /// The same with one more mount option.
    pub(crate) fn with_option(double: &Double, mode: Mode, option: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let stats = Arc::<Stats>::default();
        let options = Options::parse(["allow_other", "dev", "suid", option]).expect("options");
        let double = double.clone();
        let replicas = double.session();
        let volume = Volume::new(double, options.policy(mode));
        let nudged = volume.clone();
        replicas.listen(Box::new(move |about| nudged.nudged(about)));
        let fuse = Fuse::new(volume.clone(), Arc::clone(&stats), || {});
        let served = mountpoint::mount(directory.path(), &options, mode, fuse);
        let session = served.expect("mounts");
        let session = Some(thread::spawn(move || session.run()));
        Self { directory, session, stats, volume, replicas }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        mountpoint::unmount(self.directory.path()).expect("unmounts");
        let ended = self.session.take().expect("session").join().expect("no panic");
        if !thread::panicking() {
            ended.expect("the session ends well");
        }
    }
}
