//! A process that is known by its PID file, whoever started it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;

/// Pause between two looks at something that is awaited.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// Time that a process has to end after SIGTERM before it is killed.
const TERM_PATIENCE: Duration = Duration::from_secs(10);
/// Time that the kernel has to reap a killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a log's end that an error message quotes.
const LOG_TAIL_BYTES: u64 = 2048;

/// The folder of a process: its PID file `pid` and its log `log`.
#[derive(Clone, Debug)]
pub struct Process {
    folder: PathBuf,
}

impl Process {
    /// The process whose PID file is in `folder`, running or not.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Starts `command` in a process group of its own, so that a Ctrl-C in the terminal does not
    /// reach it; appends its output to the log.
    ///
    /// # Errors
    /// If it is running already or cannot be started.
    pub fn start(&self, command: &mut Command) -> Result<u32> {
        use std::os::unix::process::CommandExt as _;
        if let Some(pid) = self.pid() {
            anyhow::bail!("{} is running already, as process {pid}", self.folder.display());
        }
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.with_context(|| format!("cannot open the log {}", self.log().display()))?;
        // An interrupt waits for the PID file, or comes first.
        let _uninterrupted = interrupt::hold();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = child.id();
        // Even if it has ended already: nobody has waited for it yet.
        let identity = Identity::recorded(pid).context("a process was not there to be recorded")?;
        // Somebody has to wait for a child, or it stays as a zombie.
        thread::spawn(move || child.wait());
        fs::write(self.pid_file(), identity.to_string())
            .with_context(|| format!("cannot write {}", self.pid_file().display()))?;
        Ok(pid)
    }

    /// Its PID, if it is running and the PID has not been given to another process since.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let recorded = fs::read_to_string(self.pid_file()).ok()?;
        let pid = recorded.split_whitespace().next()?.parse().ok()?;
        (Identity::of(pid)?.to_string() == recorded).then_some(pid)
    }

    /// The file that its output goes to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(self.log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        tail().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// Sends it a signal. Does nothing if it is not running.
    ///
    /// # Errors
    /// If the signal is not permitted.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        match kill_process(target, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal process {pid}")),
        }
    }

    /// Ends it with SIGTERM, and with SIGKILL if it takes too long.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        // A stopped process takes SIGTERM only once it goes on.
        self.signal(Signal::CONT)?;
        if self.ended_within(TERM_PATIENCE) {
            return self.forget();
        }
        self.kill()
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        ensure!(
            self.ended_within(KILL_PATIENCE),
            "process {} of {} does not end, even by SIGKILL",
            self.pid().unwrap_or_default(),
            self.folder.display()
        );
        self.forget()
    }

    /// Waits until it is no longer running; tells whether that was within `patience`.
    #[must_use]
    pub fn ended_within(&self, patience: Duration) -> bool {
        wait_until(patience, || self.pid().is_none())
    }

    /// Whether it was started and not ended by us, although it may be gone.
    pub(crate) fn is_recorded(&self) -> bool {
        self.pid_file().exists()
    }

    /// Removes the PID file.
    pub(crate) fn forget(&self) -> Result<()> {
        match fs::remove_file(self.pid_file()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.pid_file().display()))
            }
            _ => Ok(()),
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }
}

/// Looks until `done` holds; tells whether it did within `patience`.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// CPU time that the process `pid` has used, user and system, all threads; in ticks of 10 ms.
/// `None` if it has ended.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = Stat::of(pid)?;
    Some(Duration::from_millis(stat.cpu_ticks * 1000 / clock_ticks_per_second()))
}

/// What tells a process from a later one of the same PID.
struct Identity {
    pid: u32,
    start_ticks: u64,
}

impl Identity {
    fn of(pid: u32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        // A zombie does nothing any more, once its other threads are gone too: until then they
        // may hold files and locks.
        let ended = matches!(stat.state.as_str(), "Z" | "X") && stat.threads <= 1;
        (!ended).then_some(Self { pid, start_ticks: stat.start_ticks })
    }

    /// Of a process that may be a zombie.
    fn recorded(pid: u32) -> Option<Self> {
        Some(Self { pid, start_ticks: Stat::of(pid)?.start_ticks })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.start_ticks)
    }
}

/// What is used of `/proc/PID/stat`, proc_pid_stat(5).
struct Stat {
    state: String,
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything; the fields after it are counted from the third.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: (*fields.first()?).to_owned(),
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        let process = Process::at(folder);
        process.start(Command::new("sleep").arg("600")).expect("sleep(1) exists");
        process
    }

    #[test]
    fn a_process_is_found_again_by_its_folder_and_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = sleeper(folder.path());
        let again = Process::at(folder.path());
        assert_eq!(again.pid(), process.pid());
        assert!(again.pid().is_some());
        assert!(process.start(&mut Command::new("true")).is_err(), "it runs already");
        again.stop().expect("it ends");
        assert_eq!(process.pid(), None);
        again.stop().expect("ending twice is no error");
    }

    #[test]
    fn a_stopped_process_ends_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = sleeper(folder.path());
        process.signal(Signal::STOP).expect("it may be signalled");
        process.stop().expect("it ends");
        assert_eq!(process.pid(), None);
    }

    #[test]
    fn a_pid_that_another_process_has_now_is_not_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = Identity::of(std::process::id()).expect("this process runs");
        let older = Identity { start_ticks: own.start_ticks - 1, ..own };
        fs::write(folder.path().join("pid"), older.to_string()).expect("a PID file");
        assert_eq!(Process::at(folder.path()).pid(), None);
    }

    #[test]
    fn garbage_in_a_pid_file_is_no_process() {
        let folder = tempfile::tempdir().expect("a folder");
        for garbage in ["", "x", "-1 5", "0 0", "4294967296 1"] {
            fs::write(folder.path().join("pid"), garbage).expect("a PID file");
            assert_eq!(Process::at(folder.path()).pid(), None, "{garbage:?}");
        }
    }

    #[test]
    fn output_goes_to_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = Process::at(folder.path());
        process
            .start(Command::new("sh").args(["-c", "echo to out; echo to err >&2; sleep 0.2"]))
            .expect("sh(1) exists");
        assert!(process.ended_within(Duration::from_secs(10)));
        assert_eq!(process.log_tail(), "to out\nto err");
    }

    #[test]
    fn cpu_time_is_known_of_the_living_only() {
        assert!(cpu_time(std::process::id()).is_some());
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
