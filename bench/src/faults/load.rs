//! Threads that create, write, read and remove files, and when each of their calls was done.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::site::wait_for;

/// Threads of a load.
pub(super) const WORKERS: usize = 4;
/// Bytes that are written and read at once.
const BYTES: usize = 4096;

/// A call that succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

#[derive(Debug, Default)]
struct Book {
    done: Vec<Done>,
    failures: Vec<String>,
}

/// A load on a directory. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    book: Arc<Mutex<Book>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins to work below `dir`, in which there is nothing of an earlier load.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        Self::paced(dir, Duration::ZERO)
    }

    /// The same, but each thread rests for a while before it begins with another file.
    pub(super) fn paced(dir: &Path, rest: Duration) -> Result<Self> {
        let mut load = Self {
            stop: Arc::default(),
            book: Arc::default(),
            threads: Vec::with_capacity(WORKERS),
        };
        for number in 0..WORKERS {
            let dir = dir.join(format!("worker-{number}"));
            fs::create_dir(&dir)?;
            let (stop, book) = (Arc::clone(&load.stop), Arc::clone(&load.book));
            load.threads.push(thread::spawn(move || {
                let worker = Worker { dir, book };
                while !stop.load(Ordering::Relaxed) {
                    worker.round();
                    if !rest.is_zero() {
                        thread::sleep(rest);
                    }
                }
            }));
        }
        Ok(load)
    }

    /// Waits for the first call to succeed that was begun at `moment` or later: how long after
    /// that was it?
    pub(super) fn resumed(&self, moment: Instant) -> Result<Duration> {
        wait_for("no call succeeds any more", || resumed(&lock(&self.book).done, moment))
    }

    /// Stops, and returns what was done, in order.
    ///
    /// # Errors
    /// If a call failed.
    pub(super) fn stop(mut self) -> Result<Vec<Done>> {
        self.end();
        let mut book = lock(&self.book);
        let failures = std::mem::take(&mut book.failures);
        ensure!(failures.is_empty(), "{} calls failed, first {}", failures.len(), failures[0]);
        Ok(std::mem::take(&mut book.done))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic has been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Worker {
    dir: PathBuf,
    book: Arc<Mutex<Book>>,
}

impl Worker {
    fn round(&self) {
        let path = self.dir.join("file");
        let create =
            || File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let Some(file) = self.call("create", create) else { return };
        self.call("write", || file.write_all_at(&[7; BYTES], 0));
        self.call("read", || file.read_exact_at(&mut [0; BYTES], 0));
        self.call("unlink", || fs::remove_file(&path));
    }

    fn call<T>(&self, what: &str, call: impl FnOnce() -> io::Result<T>) -> Option<T> {
        let begin = Instant::now();
        let result = call();
        let mut book = lock(&self.book);
        // Within the lock, so that the book is in order.
        let end = Instant::now();
        match &result {
            Ok(_) => book.done.push(Done { begin, end }),
            Err(error) => book.failures.push(format!("{what}: {error}")),
        }
        result.ok()
    }
}

/// From `moment` to the end of the first call that was begun after it.
pub(super) fn resumed(done: &[Done], moment: Instant) -> Option<Duration> {
    let after = done.iter().rev().take_while(|call| call.end >= moment);
    let ends = after.filter(|call| call.begin >= moment).map(|call| call.end);
    ends.min().map(|end| end - moment)
}

/// The longest time within a span in which no call was done. `done` is in order.
pub(super) fn longest_pause(done: &[Done], from: Instant, to: Instant) -> Duration {
    let ends = done.iter().map(|call| call.end).filter(|end| (from..=to).contains(end));
    let (longest, last) = ends
        .chain([to])
        .fold((Duration::ZERO, from), |(longest, last), end| (longest.max(end - last), end));
    longest.max(to - last)
}

/// Calls per second within a span.
pub(super) fn rate(done: &[Done], from: Instant, to: Instant) -> f64 {
    let count = done.iter().filter(|call| (from..to).contains(&call.end)).count();
    count as f64 / (to - from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls by the milliseconds at which they begin and end.
    fn calls(start: Instant, spans: &[(u64, u64)]) -> Vec<Done> {
        let at = |ms| start + Duration::from_millis(ms);
        spans.iter().map(|&(begin, end)| Done { begin: at(begin), end: at(end) }).collect()
    }

    #[test]
    fn only_calls_that_begin_after_a_moment_show_that_work_goes_on() {
        let start = Instant::now();
        let moment = start + Duration::from_millis(10);
        let done = calls(start, &[(0, 5), (8, 11), (9, 300), (11, 320), (301, 310)]);
        assert_eq!(resumed(&done, moment), Some(Duration::from_millis(300)));
        assert_eq!(resumed(&done[..3], moment), None);
    }

    #[test]
    fn pauses_and_rates_are_those_of_the_span() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let done = calls(start, &[(0, 100), (0, 200), (0, 700), (0, 900)]);
        assert_eq!(longest_pause(&done, at(0), at(1000)), Duration::from_millis(500));
        assert_eq!(longest_pause(&done, at(250), at(600)), Duration::from_millis(350));
        assert_eq!(rate(&done, at(0), at(500)), 4.0);
    }

    #[test]
    fn a_load_works_until_it_is_stopped() {
        let dir = tempfile::tempdir().expect("a folder");
        let load = Load::start(dir.path()).expect("it starts");
        load.resumed(Instant::now()).expect("it works");
        assert!(!load.stop().expect("nothing failed").is_empty());
    }
}
