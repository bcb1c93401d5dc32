//! Programs that must end: in time, when the person interrupts, and with all that they started.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bftfs_dev::wait_until;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt;

/// Pause between two looks at a program.
const POLL: Duration = Duration::from_millis(5);
/// Time that a program has to clean up after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(5);
/// Lines that a report quotes of the beginning of a program's output, and of its end.
const QUOTED_LINES: [usize; 2] = [8, 24];

/// A program that has ended, or was ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// How; `None` if its time was up.
    pub(super) status: Option<ExitStatus>,
    /// How long it ran.
    pub(super) took: Duration,
    out: PathBuf,
    err: PathBuf,
}

impl Ended {
    /// Whether it said that all is well.
    pub(super) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// What it wrote to standard output.
    pub(super) fn out(&self) -> Result<String> {
        let bytes = fs::read(&self.out).with_context(|| format!("{}", self.out.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// How it ended and what it said, for people.
    pub(super) fn complaint(&self) -> String {
        let how = match self.status {
            Some(status) => status.to_string(),
            None => format!("not done after {:.0} s", self.took.as_secs_f64()),
        };
        let said = [&self.out, &self.err].map(|file| quote(file)).concat();
        format!("{how}\n{}", said.trim_end())
    }
}

/// The lines of a file, without the middle if they are many.
fn quote(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let [first, last] = QUOTED_LINES;
    let indent = |lines: &[&str]| lines.iter().map(|line| format!("    {line}\n")).collect();
    let Some(left_out) = lines.len().checked_sub(first + last).filter(|lines| *lines > 0) else {
        return indent(&lines);
    };
    let ends: [String; 2] = [indent(&lines[..first]), indent(&lines[first + left_out..])];
    ends.join(&format!("    ({left_out} lines)\n"))
}

/// Runs a program for at most `limit`; its output goes to the files `log.out` and `log.err`.
///
/// # Errors
/// If it cannot be started, or the person interrupts.
pub(super) fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<Ended> {
    let [out, err] = ["out", "err"].map(|stream| log.with_extension(stream));
    command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
    let started = Instant::now();
    // A group of its own, so that all of it can be ended.
    let child = command.process_group(0).spawn();
    let child = child.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let mut group = Group(child);
    let status = loop {
        interrupt::check()?;
        if let Some(status) = group.0.try_wait()? {
            break Some(status);
        }
        if started.elapsed() >= limit {
            break None;
        }
        thread::sleep(POLL);
    };
    Ok(Ended { status, took: started.elapsed(), out, err })
}

/// The same for a program that has to succeed. Returns what it wrote to standard output.
///
/// # Errors
/// As [`run`], and if it fails.
pub(super) fn run_well(command: &mut Command, log: &Path, limit: Duration) -> Result<String> {
    let ended = run(command, log, limit)?;
    if !ended.success() {
        bail!("{}: {}", command.get_program().display(), ended.complaint());
    }
    ended.out()
}

/// A program and all that it started. Dropping it ends what is left of them.
struct Group(Child);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // Nobody is left as a rule.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        // Whoever is still there is killed.
        wait_until(TERM_PATIENCE, || !matches!(self.0.try_wait(), Ok(None)));
        self.signal(Signal::KILL);
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> (Ended, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(dir.path());
        let ended = run(&mut command, &dir.path().join("log"), limit).expect("sh(1) exists");
        (ended, dir)
    }

    #[test]
    fn a_program_tells_what_it_did() {
        let (ended, _dir) = shell("echo to out; echo to err >&2; exit 3", Duration::from_secs(60));
        assert!(!ended.success());
        assert_eq!(ended.out().expect("its output"), "to out\n");
        assert_eq!(ended.complaint(), "exit status: 3\n    to out\n    to err");
    }

    #[test]
    fn of_much_output_both_ends_are_quoted() {
        let (ended, _dir) = shell("seq 100", Duration::from_secs(60));
        let complaint = ended.complaint();
        assert!(complaint.contains("    8\n    (68 lines)\n    77\n"), "{complaint}");
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_all_that_it_started() {
        let script = "sleep 600 & echo $! >child; wait";
        let (ended, dir) = shell(script, Duration::from_secs(2));
        assert!(ended.status.is_none());
        let child = fs::read_to_string(dir.path().join("child")).expect("it was started");
        let runs = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        // It was killed; that the kernel has ended it may take a moment.
        assert!(wait_until(Duration::from_secs(10), || !runs()), "it runs on");
    }
}
