//! How many bytes a replica has written to disk for each byte that a user writes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::client::Client;
use super::site::{Site, Written, WrittenBytes};
use crate::bytes::Bytes;
use crate::fill::{self, CHUNK_BYTES, Noise};
use crate::interrupt;

/// Bytes of a small file, and of an overwrite.
const SMALL_BYTES: usize = 4096;
/// Small files of one directory.
const DIRECTORY_FILES: usize = 100;

/// How much is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amounts {
    pub(super) small_files: usize,
    pub(super) large: Bytes,
    pub(super) overwrites: usize,
    /// The file that they go into.
    pub(super) overwritten: Bytes,
    pub(super) rounds: usize,
}

/// What was written.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    pub(super) what: String,
    /// By the user; none where only the flush is measured.
    pub(super) user_bytes: u64,
    /// Until everything was in the store.
    pub(super) written: WrittenBytes,
}

/// Measures every case.
pub(super) fn measure(site: &Site, amounts: &Amounts) -> Result<Vec<Case>> {
    let client = site.client()?;
    let meter = Meter { site, client: &client, rounds: amounts.rounds };
    let (point, Amounts { small_files, large, overwrites, overwritten, .. }) =
        (site.point(), *amounts);
    // The journal's segments are made once; later ones take the place of those that are done with.
    eprintln!("warming up");
    write_large(&point.join("warm-up"), large, u64::MAX)?;
    site.settle(&client)?;
    fs::remove_file(point.join("warm-up"))?;

    let flush = "nothing, but the flush".to_owned();
    let mut cases = vec![meter.case(flush, 0, &mut |_| Ok(()))?];
    let what = format!("{small_files} files of {}", Bytes(SMALL_BYTES as u64));
    let user = (small_files * SMALL_BYTES) as u64;
    cases.push(meter.case(what, user, &mut |round| write_small(point, small_files, round))?);
    let written = chunks(large) * CHUNK_BYTES as u64;
    let what = format!("a file of {}", Bytes(written));
    let mut write = |round| write_large(&point.join(format!("large-{round}")), large, round);
    cases.push(meter.case(what, written, &mut write)?);
    for round in 0..amounts.rounds {
        fs::remove_file(point.join(format!("large-{round}")))?;
    }
    let path = point.join("overwritten");
    write_large(&path, overwritten, 0)?;
    let places = chunks(overwritten) * (CHUNK_BYTES / SMALL_BYTES) as u64;
    let what = format!(
        "{overwrites} overwrites of {} in {}",
        Bytes(SMALL_BYTES as u64),
        Bytes(chunks(overwritten) * CHUNK_BYTES as u64)
    );
    let user = (overwrites * SMALL_BYTES) as u64;
    cases.push(meter.case(what, user, &mut |round| overwrite(&path, overwrites, places, round))?);
    Ok(cases)
}

struct Meter<'a> {
    site: &'a Site,
    client: &'a Client,
    rounds: usize,
}

impl Meter<'_> {
    /// Does `work` in every round, between two moments at which everything is in the store.
    fn case(
        &self,
        what: String,
        user_bytes: u64,
        work: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Case> {
        let mut samples = Vec::new();
        for round in 0..self.rounds {
            self.site.room().check()?;
            self.site.settle(self.client)?;
            let before = self.site.written()?;
            work(round as u64).with_context(|| what.clone())?;
            self.site.settle(self.client)?;
            let written = self.site.written()?.since(before);
            eprintln!("{what}, round {}: {written}", round + 1);
            samples.push(written);
        }
        Ok(Case { what, user_bytes, written: Written::summary(&samples)? })
    }
}

fn write_small(point: &Path, files: usize, round: u64) -> Result<()> {
    let noise = Noise::new(3 + round);
    for file in 0..files {
        interrupt::check()?;
        let dir = point.join(format!("small-{round}-{}", file / DIRECTORY_FILES));
        if file % DIRECTORY_FILES == 0 {
            fs::create_dir(&dir)?;
        }
        fs::write(dir.join(file.to_string()), noise.chunk(file as u64, SMALL_BYTES))?;
    }
    Ok(())
}

fn chunks(bytes: Bytes) -> u64 {
    bytes.0.div_ceil(CHUNK_BYTES as u64)
}

fn write_large(path: &Path, bytes: Bytes, round: u64) -> Result<()> {
    let (noise, mut chunk) = (Noise::new(fill::mix(round)), vec![0; CHUNK_BYTES]);
    let mut file = File::create_new(path)?;
    for number in 0..chunks(bytes) {
        interrupt::check()?;
        noise.fill(number, &mut chunk);
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Overwrites blocks at random among `places`.
fn overwrite(path: &Path, count: usize, places: u64, round: u64) -> Result<()> {
    let (noise, file) = (Noise::new(3), File::options().write(true).open(path)?);
    for number in 0..count as u64 {
        interrupt::check()?;
        let number = fill::mix(round) ^ number;
        let place = fill::mix(number) % places;
        file.write_all_at(&noise.chunk(number, SMALL_BYTES), place * SMALL_BYTES as u64)?;
    }
    file.sync_all()?;
    Ok(())
}
