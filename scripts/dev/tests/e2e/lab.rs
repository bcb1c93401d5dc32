//! A cluster for one test.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::{DevCluster, Mode, MountGuard, MountOptions, Process, UpOptions, find, interrupt};
use tempfile::TempDir;

/// Time that a test may take before it is taken for hung.
const TEST_PATIENCE: Duration = Duration::from_secs(240);
/// Tests share two processors and the mount table.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static SIGNALS: Once = Once::new();

/// All ways to carry out reads.
pub(crate) const MODES: [Mode; 3] = [Mode::Strict, Mode::Relatime, Mode::RoLookup];

/// A running cluster and a directory to work in.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The cluster.
    pub cluster: DevCluster,
    dir: PathBuf,
}

/// Runs `test` on a new cluster of `replicas` replicas; afterwards nothing of it is left.
///
/// Panics if the test fails, after it has shown the ends of all logs.
pub(crate) fn with_cluster(replicas: u32, test: impl FnOnce(&Lab) -> Result<()>) {
    with_options(|options| options.replicas = replicas, test);
}

/// The same, with more to choose.
pub(crate) fn with_options(
    choose: impl FnOnce(&mut UpOptions),
    test: impl FnOnce(&Lab) -> Result<()>,
) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    SIGNALS.call_once(|| interrupt::stop_clusters_on_signals().expect("signals can be handled"));
    let mut dir = new_directory();
    let cluster_dir = dir.path().join("cluster");
    let (done, watched) = mpsc::channel::<()>();
    watch(watched, cluster_dir.clone());

    let mut options = UpOptions::new(&cluster_dir);
    choose(&mut options);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let cluster = DevCluster::up(&options)?;
        let lab = Lab { cluster, dir: dir.path().to_owned() };
        let outcome = catch_unwind(AssertUnwindSafe(|| test(&lab)));
        // Before the cluster is stopped: a program that ended says why at the end of its log.
        if !matches!(outcome, Ok(Ok(()))) {
            show_logs(&cluster_dir);
        }
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }));
    drop(done);
    if !matches!(outcome, Ok(Ok(()))) {
        dir.disable_cleanup(true);
        eprintln!("kept for a look: {}", dir.path().display());
    }
    match outcome {
        Ok(outcome) => outcome.unwrap_or_else(|error| panic!("{error:#}")),
        Err(panic) => resume_unwind(panic),
    }
}

impl Lab {
    /// Makes an empty directory beside the cluster, which every user may enter.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Mounts the cluster on a new directory, for all users.
    pub(crate) fn mount(&self, name: &str, mode: Mode) -> Result<MountGuard> {
        self.mount_with(name, mode, &["--timeout", "20s"])
    }

    /// The same with further arguments.
    pub(crate) fn mount_with(&self, name: &str, mode: Mode, extra: &[&str]) -> Result<MountGuard> {
        let point = self.dir.join(name);
        if !point.exists() {
            self.directory(name)?;
        }
        let mut options = MountOptions::new(&point, mode);
        options.extra =
            ["-o", "allow_other"].iter().chain(extra).map(ToString::to_string).collect();
        self.cluster.mount(&options)
    }

    /// The last sequence number that each replica that answers has executed.
    pub(crate) fn executed(&self) -> Vec<Option<u64>> {
        let status = self.cluster.status();
        status.into_iter().map(|r| r.counters.map(|c| c.last_executed)).collect()
    }

    /// Waits until all replicas have executed the same, and at least up to `seq`.
    pub(crate) fn wait_until_level(&self, seq: u64, patience: Duration) -> Result<()> {
        self.wait_until_level_but(None, seq, patience)
    }

    /// The same of all replicas but `liar`.
    pub(crate) fn wait_until_level_but(
        &self,
        liar: Option<u32>,
        seq: u64,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let mut executed = self.executed();
            if let Some(liar) = liar {
                executed.remove(liar as usize);
            }
            let level = executed.iter().all(|e| *e == executed[0] && e.is_some_and(|e| e >= seq));
            if level {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "replicas are not level at {seq} or above after {patience:?}: {executed:?}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn new_directory() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    // A disk, not memory: journals are forced to it.
    let dir = tempfile::Builder::new().prefix("bftfs-e2e-").tempdir_in("/var/tmp");
    let dir = dir.expect("a directory for the test");
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), everybody).expect("tests act as other users too");
    dir
}

/// Ends everything if the test neither ends nor fails: a hung mount must not hang its callers.
fn watch(watched: mpsc::Receiver<()>, cluster: PathBuf) {
    thread::spawn(move || {
        if watched.recv_timeout(TEST_PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the test is not done after {TEST_PATIENCE:?}: it hangs");
            show_logs(&cluster);
            if let Err(error) = DevCluster::open(&cluster).and_then(|cluster| cluster.down()) {
                eprintln!("{error:#}");
            }
            std::process::exit(101);
        }
    });
}

fn show_logs(cluster: &Path) {
    for folder in [cluster.to_owned(), cluster.join("mounts")] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let process = Process::at(&entry.path());
            if process.log().exists() {
                eprintln!("--- the end of {}:\n{}", process.log().display(), process.log_tail());
            }
        }
    }
}

/// Runs a program that is to fail: returns what it says on standard error.
pub(crate) fn refused(program: &str, arguments: &[&str]) -> Result<String> {
    // A program that is not refused would run for ever.
    let mut command = std::process::Command::new("timeout");
    command.args(["--kill-after=5", "30"]).arg(find(program)?).args(arguments);
    let output = command.env_remove("RUST_BACKTRACE").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{program} {arguments:?} was not refused: {said}");
    ensure!(output.status.code() != Some(124), "{program} {arguments:?} runs on: {said}");
    ensure!(output.status.code() != Some(101), "{program} {arguments:?} panicked: {said}");
    Ok(said)
}
