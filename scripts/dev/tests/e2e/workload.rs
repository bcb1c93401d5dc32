//! Work in the background, and a ledger of what was acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};

/// Numbers that look random and are the same every time (Knuth's MMIX generator).
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, from 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }
}

/// What was acknowledged: the contents of a file, or `None` if it was removed. What failed or was
/// not answered is not in it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// What failed, and how.
    pub failures: Vec<String>,
}

impl Ledger {
    /// Files that something is known of.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Checks that all that was acknowledged is there, below `dir`.
    pub(crate) fn verify(&self, dir: &Path) -> Result<()> {
        for (name, contents) in &self.files {
            let found = match fs::read(dir.join(name)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error).context(format!("cannot read {}", name.display())),
            };
            let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
            ensure!(
                found == *contents,
                "{}: {:?} bytes were acknowledged, {:?} are there",
                name.display(),
                size(contents),
                size(&found)
            );
        }
        Ok(())
    }

    fn known(&mut self, name: PathBuf, contents: Option<Vec<u8>>) {
        self.files.insert(name, contents);
    }

    /// An operation on these names failed: it may or may not have been carried out.
    fn failed(&mut self, what: &str, names: &[&Path], error: &io::Error) {
        self.failures.push(format!("{what} {names:?}: {error}"));
        for name in names {
            self.files.remove(*name);
        }
    }
}

/// A thread that makes, reads, renames and removes files until it is stopped or dropped: a test
/// that fails must not have it go on in what is below the mount.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Ledger>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Begins to work in the directory `dir`.
    pub(crate) fn start(dir: &Path) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let worker =
            Worker { dir: dir.to_owned(), numbers: Numbers::new(1), ledger: Ledger::default() };
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = Some(thread::spawn(move || worker.work(&stopped, &count)));
        Self { stop, rounds, thread }
    }

    /// Rounds done so far, successful or not.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Stops, and tells what was acknowledged.
    pub(crate) fn stop(mut self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("the load does not panic")
    }
}

#[derive(Debug)]
struct Worker {
    dir: PathBuf,
    numbers: Numbers,
    ledger: Ledger,
}

impl Worker {
    fn work(mut self, stop: &AtomicBool, rounds: &AtomicU64) -> Ledger {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            self.round(round);
            round += 1;
            rounds.store(round, Ordering::Relaxed);
        }
        self.ledger
    }

    fn round(&mut self, round: u64) {
        let name = PathBuf::from(format!("file-{round}"));
        let size = self.numbers.below(20_000);
        let contents: Vec<u8> = (0..size).map(|_| self.numbers.byte()).collect();
        if let Err(error) = fs::write(self.dir.join(&name), &contents) {
            return self.ledger.failed("write", &[&name], &error);
        }
        self.ledger.known(name.clone(), Some(contents.clone()));
        match fs::read(self.dir.join(&name)) {
            Ok(found) if found == contents => {}
            Ok(found) => {
                let what = format!("{} of {size} bytes are read of", found.len());
                self.ledger.failures.push(format!("{what} {}", name.display()));
            }
            // A read that fails has changed nothing.
            Err(error) => self.ledger.failures.push(format!("read {}: {error}", name.display())),
        }
        match self.numbers.below(4) {
            0 => self.rename(&name, contents),
            1 => self.remove(&name),
            _ => {}
        }
    }

    fn rename(&mut self, name: &Path, contents: Vec<u8>) {
        let to = name.with_extension("renamed");
        match fs::rename(self.dir.join(name), self.dir.join(&to)) {
            Ok(()) => {
                self.ledger.known(name.to_owned(), None);
                self.ledger.known(to, Some(contents));
            }
            Err(error) => self.ledger.failed("rename", &[name, &to], &error),
        }
    }

    fn remove(&mut self, name: &Path) {
        match fs::remove_file(self.dir.join(name)) {
            Ok(()) => self.ledger.known(name.to_owned(), None),
            Err(error) => self.ledger.failed("unlink", &[name], &error),
        }
    }
}
