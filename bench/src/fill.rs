//! Fills file systems with data that nothing can compress or store once for twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};

use crate::interrupt;
use crate::progress::Progress;
use crate::room::Room;

/// Bytes of a chunk, and of a file that is only there to take room.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// Threads that write such files.
const THREADS: usize = 4;
/// Such files in one directory.
const DIRECTORY_FILES: usize = 256;
/// Times that it is told how far something is.
const TOLD: usize = 20;

/// Makes chunks: the same again for the same number, and nothing alike for another.
#[derive(Debug)]
pub(crate) struct Noise {
    base: Vec<u8>,
}

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        let mut base = vec![0; CHUNK_BYTES];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut base);
        Self { base }
    }

    /// Writes the chunk `number` to `chunk`, or as much of it as there is room for: much faster
    /// than any disk, so that making data is no part of a measurement.
    pub(crate) fn fill(&self, number: u64, chunk: &mut [u8]) {
        let key = mix(number);
        for (to, from) in chunk.chunks_mut(8).zip(self.base.chunks_exact(8)) {
            let word = u64::from_le_bytes(from.try_into().expect("eight bytes")) ^ key;
            to.copy_from_slice(&word.to_le_bytes()[..to.len()]);
        }
    }

    /// The first `bytes` bytes of the chunk `number`.
    pub(crate) fn chunk(&self, number: u64, bytes: usize) -> Vec<u8> {
        let mut chunk = vec![0; bytes];
        self.fill(number, &mut chunk);
        chunk
    }
}

/// A number that looks like chance, and is another for every `number` (the finaliser of SplitMix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Takes `step` for every number below `count` on `threads` threads, and shows how far it is.
///
/// # Errors
/// As [`quietly`].
pub(crate) fn parallel(
    label: &str,
    count: usize,
    threads: usize,
    step: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let (done, start) = (AtomicUsize::new(0), Instant::now());
    let progress = Progress::new(TOLD.min(count));
    progress.begin(label);
    quietly(count, threads, |number| {
        step(number)?;
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done * TOLD / count != (done - 1) * TOLD / count {
            let rate = done as f64 / start.elapsed().as_secs_f64();
            progress.end(&format!("{label}: {done} of {count}, {rate:.0}/s"));
        }
        Ok(())
    })
}

/// Takes `step` for every number below `count` on `threads` threads.
///
/// # Errors
/// The first failure of a step, after which no other is begun; or that the person asked to stop.
pub(crate) fn quietly(
    count: usize,
    threads: usize,
    step: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> Result<()> {
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let taken = interrupt::check().and_then(|()| step(number));
            taken.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(count)).map(|_| scope.spawn(work)).collect();
        let ends = workers.into_iter().map(|worker| match worker.join() {
            Ok(end) => end,
            Err(_) => Err(anyhow!("a worker panicked")),
        });
        // All are waited for, whatever the first says.
        ends.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Writes the files numbered `files` below `dir`, of one chunk each.
///
/// # Errors
/// If one cannot be written, or there is no room for it.
pub(crate) fn chunk_files(
    label: &str,
    dir: &Path,
    files: std::ops::Range<usize>,
    room: &Room,
) -> Result<()> {
    let noise = Noise::new(0);
    let folder = |file: usize| dir.join(format!("chunks-{}", file / DIRECTORY_FILES));
    for file in files.clone().filter(|file| *file == files.start || file % DIRECTORY_FILES == 0) {
        let folder = folder(file);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let path = |file: usize| -> PathBuf { folder(file).join(format!("file-{file}")) };
    parallel(label, files.len(), THREADS, |step| {
        room.check()?;
        let file = files.start + step;
        let path = path(file);
        fs::write(&path, noise.chunk(file as u64, CHUNK_BYTES))
            .with_context(|| format!("cannot write {}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[test]
    fn chunks_are_the_same_again_and_differ_in_every_block() {
        let noise = Noise::new(7);
        let (one, two) = (noise.chunk(1, 8192), noise.chunk(2, 8192));
        assert_eq!(Noise::new(7).chunk(1, 8192), one);
        assert!(one.chunks(16).zip(two.chunks(16)).all(|(one, two)| one != two));
        assert_ne!(one[..4096], one[4096..]);
        assert_eq!(noise.chunk(1, 13), one[..13]);
    }

    #[test]
    fn every_step_is_taken_once() {
        let taken: Vec<_> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        let step = |number: usize| {
            taken[number].fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        parallel("steps", taken.len(), 3, step).expect("none fails");
        assert!(taken.iter().all(|times| times.load(Ordering::Relaxed) == 1));
        parallel("nothing", 0, 3, step).expect("nothing fails");
    }

    #[test]
    fn a_failure_ends_the_work() {
        let taken = AtomicUsize::new(0);
        let step = |number: usize| {
            taken.fetch_add(1, Ordering::Relaxed);
            ensure!(number != 5, "five");
            Ok(())
        };
        let error = parallel("steps", 1_000_000, 2, step).expect_err("five fails");
        assert_eq!(error.to_string(), "five");
        assert!(taken.load(Ordering::Relaxed) < 1_000_000);
    }

    #[test]
    fn files_of_chunks_are_written_where_the_last_ones_ended() {
        let dir = tempfile::tempdir().expect("a folder");
        let room = Room::of(dir.path());
        chunk_files("files", dir.path(), 0..2, &room).expect("there is room");
        chunk_files("files", dir.path(), 2..3, &room).expect("there is room");
        let read =
            |file| fs::read(dir.path().join(format!("chunks-0/file-{file}"))).expect("a file");
        assert_eq!(read(2), Noise::new(0).chunk(2, CHUNK_BYTES));
        assert_ne!(read(1), read(0));
    }
}
