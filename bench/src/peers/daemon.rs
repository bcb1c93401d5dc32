//! Programs of others, run so that nothing of them is left.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bftfs_dev::wait_until;
use rustix::process::{Pid, Signal};

use crate::interrupt;

/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end once all that it has started is killed.
const ENDING: Duration = Duration::from_secs(2);
/// How often it is looked whether it is.
const POLL: Duration = Duration::from_millis(20);
/// How much of a log is shown when its program has failed.
const TOLD_LINES: usize = 3;

/// A running program; dropping it ends it, and all that it has started.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a server in a process namespace of its own: whatever it leaves behind as a daemon ends
    /// with it. Its output goes to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn server<S: AsRef<OsStr>>(log: PathBuf, command: &[S]) -> Result<Self> {
        let own = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--"];
        // The shell waits: a server that gives up its rights would also lose the order to end.
        let waiting = ["sh", "-c", "\"$@\"; exit $?", "sh"];
        Self::start(log, &[own.as_slice(), &waiting].concat(), command)
    }

    /// Starts a mount, which has to see the processes that use it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn mount<S: AsRef<OsStr>>(log: PathBuf, command: &[S]) -> Result<Self> {
        Self::start(log, &[], command)
    }

    fn start<S: AsRef<OsStr>>(log: PathBuf, inside: &[&str], command: &[S]) -> Result<Self> {
        let output =
            File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let child = Command::new("setpriv")
            // If this process is killed, they must not stay behind.
            .args(["--pdeathsig", "KILL", "--"])
            .args(inside)
            .args(command)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Out of the terminal's group: Ctrl-C must not end it before the cleaning up.
            .process_group(0)
            .spawn()
            .context("cannot start setpriv (util-linux)")?;
        Ok(Self { child, log })
    }

    /// Waits until it is `ready`.
    ///
    /// # Errors
    /// If it ends instead, or is not in time, or the person asked to stop.
    pub(super) fn wait(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("{what}: its process ended ({status}): {}", self.last_words());
            }
            ensure!(
                Instant::now() < deadline,
                "{what}: not within {PATIENCE:?}: {}",
                self.last_words()
            );
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TOLD_LINES)..].join("; ")
    }

    /// It and all that it has started.
    pub(super) fn pids(&self) -> Vec<u32> {
        family(self.child.id(), &parents())
    }

    /// Waits for its end, which somebody has brought about; ends it if need be.
    pub(super) fn end(&mut self, patience: Duration) {
        if self.has_ended(patience) {
            return;
        }
        let own = self.child.id();
        let others = self.pids().into_iter().filter(|pid| *pid != own);
        for pid in others.filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        // unshare(1) ends with the last of its namespace.
        if !self.has_ended(ENDING) {
            let _ = self.child.kill();
            self.has_ended(PATIENCE);
        }
    }

    fn has_ended(&mut self, patience: Duration) -> bool {
        wait_until(patience, || !matches!(self.child.try_wait(), Ok(None)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// The parent of every living process.
fn parents() -> BTreeMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parent(&stat)?))
        })
        .collect()
}

/// The parent by `/proc/PID/stat`; `None` for what has ended and only waits to be noticed.
fn parent(stat: &str) -> Option<u32> {
    // The name before it may hold anything, brackets and blanks too.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z").then_some(parent)
}

/// `root` and all its descendants.
fn family(root: u32, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut family = vec![root];
    let mut seen = 0;
    while let Some(&member) = family.get(seen) {
        family.extend(parents.iter().filter(|(_, parent)| **parent == member).map(|(pid, _)| *pid));
        seen += 1;
    }
    family
}

/// Runs a command to its end; tells what it wrote.
///
/// # Errors
/// If it cannot be run or fails.
pub(super) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        output.status.success(),
        "{program} failed ({}): {} {}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// Makes the directory `name` in `dir`.
pub(super) fn folder(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// Words of a command line.
pub(super) fn words<const N: usize>(words: [&dyn AsRef<OsStr>; N]) -> Vec<OsString> {
    words.into_iter().map(|word| word.as_ref().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_process_and_all_that_descend_from_it() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 2)]);
        assert_eq!(family(2, &parents), [2, 3, 6, 4]);
    }

    #[test]
    fn a_name_may_look_like_the_fields_after_it() {
        assert_eq!(parent("7 (a) S 3 (b)) R 12 7 7"), Some(12));
        assert_eq!(parent("7 (a) Z 12 7 7"), None);
        assert_eq!(parent("7"), None);
    }
}
