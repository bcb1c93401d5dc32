//! What operations cost, and how much memory is taken, with more and more files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bftfs_fs::{Ino, ROOT};
use serde::Serialize;

use super::client::Client;
use super::site::{Memory, Site};
use crate::fill::{self, Noise};
use crate::interrupt;
use crate::stats::Summary;

/// Files of a directory.
pub(super) const DIRECTORY_FILES: usize = 10;
/// Bytes of a file.
pub(super) const FILE_BYTES: usize = 64;
/// Directories that are filled at once.
const THREADS: usize = 32;
/// Directories between two looks at how much room there is.
const ROOM_STEPS: usize = 256;
/// The directory of them all.
const TOP: &str = "files";
/// About so many of a thousand files lie between two that are visited one after the other.
const STRIDE_MILLE: usize = 618;

/// What was measured with so many files.
#[derive(Debug, Serialize)]
pub(super) struct Size {
    pub(super) files: usize,
    /// Seconds that it took to come here from the size before.
    pub(super) fill_seconds: f64,
    /// By operation, how many of it a second.
    pub(super) rates: BTreeMap<Op, Summary>,
    pub(super) memory: Memory,
}

/// What is measured, on files all over the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Op {
    /// Make, write and close.
    Create,
    Stat,
    /// Open, read and close.
    Read,
    Delete,
}

impl Op {
    /// In the order in which they are measured: what is deleted is created again.
    pub(super) const ALL: [Self; 4] = [Self::Stat, Self::Read, Self::Delete, Self::Create];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Stat => "stat",
            Self::Read => "read",
            Self::Delete => "delete",
        }
    }

    fn carry_out(self, path: &Path, contents: &[u8]) -> Result<()> {
        match self {
            Self::Create => File::create_new(path)?.write_all(contents)?,
            Self::Stat => {
                let length = fs::metadata(path)?.len();
                ensure!(length == contents.len() as u64, "it has {length} bytes");
            }
            Self::Read => ensure!(fs::read(path)? == contents, "it has other contents"),
            Self::Delete => fs::remove_file(path)?,
        }
        Ok(())
    }
}

/// Many small files in a file system.
#[derive(Debug)]
pub(super) struct Population {
    top: Ino,
    files: usize,
    noise: Noise,
}

impl Population {
    /// None as yet.
    pub(super) fn new(client: &Client) -> Result<Self> {
        Ok(Self { top: client.mkdir(ROOT, TOP)?, files: 0, noise: Noise::new(1) })
    }

    pub(super) fn files(&self) -> usize {
        self.files
    }

    /// Makes files until there are so many, a multiple of [`DIRECTORY_FILES`].
    pub(super) fn grow(&mut self, site: &Site, client: &Client, files: usize) -> Result<()> {
        let (from, to) = (self.files / DIRECTORY_FILES, files / DIRECTORY_FILES);
        let label = format!("directories of {DIRECTORY_FILES} files, up to {files} files");
        fill::parallel(&label, to.saturating_sub(from), THREADS, |step| {
            if step.is_multiple_of(ROOM_STEPS) {
                site.room().check()?;
            }
            let directory = from + step;
            let parent = client.mkdir(self.top, &directory_name(directory))?;
            let first = directory * DIRECTORY_FILES;
            for file in first..first + DIRECTORY_FILES {
                client.write(client.create(parent, &file_name(file))?, &self.contents(file))?;
            }
            Ok(())
        })?;
        self.files = files;
        Ok(())
    }

    /// Directories all over the file system, at most `count`.
    pub(super) fn directories(&self, client: &Client, count: usize) -> Result<Vec<Ino>> {
        let all = self.files / DIRECTORY_FILES;
        let count = count.min(all);
        let directory = |number| client.lookup(self.top, &directory_name(number));
        spread(all).take(count).map(directory).collect()
    }

    /// Files all over the file system, at most `count`, and none that was deleted and made again as
    /// long as there are others: those lie together in the state, in the order of their making.
    pub(super) fn some_files(&self, client: &Client, count: usize) -> Result<Vec<Ino>> {
        let count = count.min(self.files);
        let file = |number: usize| {
            let parent = client.lookup(self.top, &directory_name(number / DIRECTORY_FILES))?;
            client.lookup(parent, &file_name(number))
        };
        spread(self.files).skip(self.files - count).map(file).collect()
    }

    fn contents(&self, file: usize) -> Vec<u8> {
        self.noise.chunk(file as u64, FILE_BYTES)
    }

    fn path(&self, point: &Path, file: usize) -> PathBuf {
        let directory = directory_name(file / DIRECTORY_FILES);
        point.join(TOP).join(directory).join(file_name(file))
    }
}

fn directory_name(directory: usize) -> String {
    format!("d{directory}")
}

fn file_name(file: usize) -> String {
    format!("f{file}")
}

/// Every number below `count` once, two that follow each other far apart.
fn spread(count: usize) -> impl Iterator<Item = usize> + Clone {
    let wanted = count * STRIDE_MILLE / 1000;
    let stride = (wanted..).find(|stride| gcd(*stride, count) == 1).unwrap_or(1);
    (0..count).map(move |step| step * stride % count)
}

fn gcd(one: usize, other: usize) -> usize {
    if other == 0 { one } else { gcd(other, one % other) }
}

/// Measures every operation on `sample` files, `rounds` times.
pub(super) fn measure(
    site: &Site,
    population: &Population,
    sample: usize,
    rounds: usize,
    fill_seconds: f64,
) -> Result<Size> {
    let files = population.files();
    let mut rates: BTreeMap<Op, Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for op in Op::ALL {
            // Other files in each round, while there are any.
            let sampled =
                spread(files).cycle().skip(round * sample % files).take(sample.min(files));
            let rate = rate(site, population, op, sampled);
            let rate = rate.with_context(|| format!("{} with {files} files", op.name()))?;
            eprintln!("{files} files, round {}: {} {rate:.0}/s", round + 1, op.name());
            rates.entry(op).or_default().push(rate);
        }
    }
    let summary = |rates: Vec<f64>| Summary::of(&rates).expect("rounds are at least one");
    let rates = rates.into_iter().map(|(op, rates)| (op, summary(rates))).collect();
    Ok(Size { files, fill_seconds, rates, memory: site.memory()? })
}

fn rate(
    site: &Site,
    population: &Population,
    op: Op,
    files: impl Iterator<Item = usize>,
) -> Result<f64> {
    let of = |file| (population.path(site.point(), file), population.contents(file));
    let work: Vec<_> = files.map(of).collect();
    let start = Instant::now();
    for (path, contents) in &work {
        interrupt::check()?;
        op.carry_out(path, contents).with_context(|| path.display().to_string())?;
    }
    Ok(work.len() as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_visited_once() {
        for count in [1, 2, 9, 10, 1000] {
            let mut visited: Vec<_> = spread(count).collect();
            visited.sort_unstable();
            assert!(visited.into_iter().eq(0..count), "{count}");
        }
        assert_eq!(spread(0).count(), 0);
    }

    #[test]
    fn operations_check_what_they_get() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        assert!(Op::Stat.carry_out(&path, b"data").is_err());
        Op::Create.carry_out(&path, b"data").expect("it is new");
        Op::Stat.carry_out(&path, b"data").expect("it has four bytes");
        assert!(Op::Stat.carry_out(&path, b"more data").is_err());
        Op::Read.carry_out(&path, b"data").expect("it has these");
        assert!(Op::Read.carry_out(&path, b"atad").is_err());
        Op::Delete.carry_out(&path, b"data").expect("it is there");
        assert!(!path.exists());
    }
}
