//! A large file, written and read from one end to the other, against the local file system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::site::{Memory, Site};
use crate::bytes::Bytes;
use crate::caches;
use crate::fill::{CHUNK_BYTES, Noise};
use crate::interrupt;
use crate::progress::Progress;
use crate::stats::Summary;

/// Chunks between two looks at how much room there is.
const ROOM_CHUNKS: u64 = 64;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Large {
    pub(super) bytes: Bytes,
    /// Which caches there were before a file was read.
    pub(super) caches: &'static str,
    /// By operation and place, bytes a second.
    pub(super) rates: BTreeMap<Op, BTreeMap<Place, Summary>>,
    /// While the first file was there.
    pub(super) memory: Memory,
    /// After the last one was removed.
    pub(super) memory_removed: Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Op {
    /// Until fsync(2) has returned.
    Write,
    Read,
}

/// Where the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    /// In a directory beside the replica's data.
    Local,
    Mount,
}

/// Writes and reads a file in both places, `rounds` times.
pub(super) fn measure(site: &mut Site, local: &Path, bytes: Bytes, rounds: usize) -> Result<Large> {
    let chunks = bytes.0.div_ceil(CHUNK_BYTES as u64);
    let progress = Progress::new(rounds * 4);
    let mut rates: BTreeMap<Op, BTreeMap<Place, Vec<f64>>> = BTreeMap::new();
    let (mut memory, mut cold) = (None, true);
    for round in 0..rounds {
        let mut places = [Place::Local, Place::Mount];
        places.rotate_left(round % 2);
        for op in [Op::Write, Op::Read] {
            for place in places {
                let label = format!("round {}: {op:?} of {bytes}, {place:?}", round + 1);
                progress.begin(&label);
                // What the replica still writes is no part of what comes next.
                site.wait_until_quiet()?;
                rustix::fs::sync();
                if op == Op::Read {
                    site.remount()?;
                    cold &= caches::drop_kernels();
                }
                let file = path(site, local, place);
                let took = match op {
                    Op::Write => write(site, &file, chunks)?,
                    Op::Read => read(&file, chunks)?,
                };
                let rate = (chunks * CHUNK_BYTES as u64) as f64 / took.as_secs_f64();
                progress.end(&format!("{label}: {:.1} MB/s", rate / 1e6));
                rates.entry(op).or_default().entry(place).or_default().push(rate);
            }
        }
        memory.get_or_insert(site.memory()?);
        for place in places {
            fs::remove_file(path(site, local, place))?;
        }
        site.settle(&site.client()?)?;
    }
    let summary = |(place, rates): (Place, Vec<f64>)| Some((place, Summary::of(&rates)?));
    let rates = rates
        .into_iter()
        .map(|(op, places)| (op, places.into_iter().filter_map(summary).collect()));
    Ok(Large {
        bytes,
        caches: if cold {
            "cold: remounted, and the kernel's caches dropped"
        } else {
            "remounted, but the kernel's caches kept: dropping needs root"
        },
        rates: rates.collect(),
        memory: memory.context("rounds are at least one")?,
        memory_removed: site.memory()?,
    })
}

fn path(site: &Site, local: &Path, place: Place) -> PathBuf {
    match place {
        Place::Local => local.join("large"),
        Place::Mount => site.point().join("large"),
    }
}

/// The time that the calls take, without the making of data.
fn write(site: &Site, path: &Path, chunks: u64) -> Result<Duration> {
    let (noise, mut chunk) = (Noise::new(2), vec![0; CHUNK_BYTES]);
    let cannot = || format!("cannot write {}", path.display());
    let mut took = Duration::ZERO;
    let mut file = File::create_new(path).with_context(cannot)?;
    for number in 0..chunks {
        interrupt::check()?;
        if number % ROOM_CHUNKS == 0 {
            site.room().check()?;
        }
        noise.fill(number, &mut chunk);
        let begin = Instant::now();
        file.write_all(&chunk).with_context(cannot)?;
        took += begin.elapsed();
    }
    let begin = Instant::now();
    file.sync_all().with_context(cannot)?;
    Ok(took + begin.elapsed())
}

fn read(path: &Path, chunks: u64) -> Result<Duration> {
    let (noise, mut chunk) = (Noise::new(2), vec![0; CHUNK_BYTES]);
    let cannot = || format!("cannot read {}", path.display());
    let mut took = Duration::ZERO;
    let mut file = File::open(path).with_context(cannot)?;
    for number in 0..chunks {
        interrupt::check()?;
        let begin = Instant::now();
        file.read_exact(&mut chunk).with_context(cannot)?;
        took += begin.elapsed();
        // Whole chunks would take longer to check than to read.
        let wanted = noise.chunk(number, 64);
        ensure!(chunk.starts_with(&wanted), "{}: chunk {number} is wrong", path.display());
    }
    Ok(took)
}
