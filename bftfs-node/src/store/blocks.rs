//! Blocks by their digests: reading, keeping and mending them, from any thread.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bftfs_state::{Block, Digest, Source, is_block};
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, warn};

use super::append::Appender;
use super::disk::Disk;
use super::index::{Index, Place};
use super::pack;
use super::scrub::{Scrub, ScrubReport};
use crate::data::{Options, Seal};

/// Blocks that are written at once by the thread that writes early.
const EARLY_MAX: usize = 256;
/// What a block in the cache takes beside its bytes.
const CACHED_OVERHEAD: u64 = 128;

/// What the threads of a store share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Disk,
    pub(super) seal: Seal,
    pub(super) options: Options,
    index: Mutex<Index>,
    /// Taken before the index, never after it.
    appender: Mutex<Appender>,
    /// There is a block to be written early, or the store is closed.
    work: Condvar,
    cache: Cache<Digest, Bytes, Weight>,
    pub(super) scrub: Scrub,
    damaged: UnboundedSender<Digest>,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Digest, Bytes> for Weight {
    fn weight(&self, _: &Digest, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + CACHED_OVERHEAD
    }
}

impl Shared {
    pub(super) fn new(
        disk: Disk,
        seal: Seal,
        options: Options,
        index: Index,
        appender: Appender,
        damaged: UnboundedSender<Digest>,
    ) -> Self {
        // As many as there are of 32 KiB, the size of a piece of a file.
        let items = usize::try_from(options.cache_bytes >> 15).unwrap_or(0).max(16);
        Self {
            disk,
            seal,
            options,
            index: Mutex::new(index),
            appender: Mutex::new(appender),
            work: Condvar::new(),
            cache: Cache::with_weighter(items, options.cache_bytes, Weight),
            scrub: Scrub::default(),
            damaged,
        }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn appender(&self) -> MutexGuard<'_, Appender> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a block and verifies it; `None` if nothing needs one of this digest.
    ///
    /// # Errors
    /// With [`io::ErrorKind::InvalidData`] when it should be there, but is lost or damaged. That is
    /// noted.
    pub(super) fn read(&self, digest: &Digest) -> io::Result<Option<Bytes>> {
        loop {
            let place = self.index().find(digest);
            let (file, pack, at, len) = match place {
                None => return Ok(None),
                Some(Place::Pending(bytes)) => return Ok(Some(bytes)),
                Some(Place::In(file, pack, at, len)) => (file, pack, at, len),
                Some(Place::Lost) => {
                    let error = format!("block {digest} is lost");
                    self.note_damage(*digest, &error);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            match pack::read_block(&file, at, len, digest) {
                Ok(bytes) => return Ok(Some(bytes.into())),
                // It was moved or mended meanwhile.
                Err(_) if !self.index().is_at(digest, pack, at) => {}
                Err(error) => {
                    self.note_damage(*digest, &error.to_string());
                    return Err(error);
                }
            }
        }
    }

    /// Has a damaged block repaired, unless that was asked for before.
    pub(super) fn note_damage(&self, digest: Digest, what: &str) {
        if self.index().note_damage(digest) && !self.options.quiet {
            warn!("{what}; it is to be fetched from another replica");
            // Who does not listen finds it again.
            let _ = self.damaged.send(digest);
        }
    }

    /// Writes blocks as soon as they are kept, so that a checkpoint finds most of them written.
    pub(super) fn write_early(&self) {
        loop {
            let mut index = self.index();
            while index.queued() == 0 && !index.closing {
                index = self.work.wait(index).unwrap_or_else(PoisonError::into_inner);
            }
            if index.closing {
                return;
            }
            drop(index);
            if let Err(error) = self.write_queued(EARLY_MAX) {
                // The next checkpoint says so and ends the replica; until then all is in memory.
                error!("blocks cannot be written: {error}");
                self.index().failure = Some(error.to_string());
                return;
            }
        }
    }

    /// Writes some of the blocks that were kept or mended.
    pub(super) fn write_queued(&self, most: usize) -> io::Result<()> {
        let mut appender = self.appender();
        for _ in 0..most {
            let Some((digest, bytes)) = self.index().next_queued() else { break };
            appender.append(self, &digest, &bytes)?;
        }
        appender.flush(self)
    }

    pub(super) fn close(&self) {
        self.index().closing = true;
        self.work.notify_all();
        self.scrub.close();
    }

    pub(super) fn contents(&self) -> Contents {
        let index = self.index();
        let (bytes, live_bytes) = index.bytes();
        Contents {
            packs: index.packs.len(),
            bytes,
            live_bytes,
            dead_bytes: bytes - live_bytes,
            damaged: index.damaged(),
            repaired: index.repaired,
            moved_bytes: index.moved,
        }
    }
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Contents {
    /// Packs.
    pub packs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of them that a checkpoint needs.
    pub live_bytes: u64,
    /// The others.
    pub dead_bytes: u64,
    /// Blocks that are known to be damaged or lost.
    pub damaged: usize,
    /// Blocks that were, and were written anew, since the start.
    pub repaired: u64,
    /// Bytes that were moved to empty packs of which little was needed, since the start.
    pub moved_bytes: u64,
}

/// What a store says of itself.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StoreReport {
    /// What it holds.
    #[serde(flatten)]
    pub contents: Contents,
    /// How far scrubbing is.
    pub scrub: ScrubReport,
}

/// The blocks of a store, for those who read and keep values. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blocks(pub(super) Arc<Shared>);

impl Blocks {
    /// Replaces a damaged or lost block by what others have; false if these bytes are not the
    /// block's, or nothing needs it. From now on it is read; the next checkpoint makes it durable.
    pub fn mend(&self, block: &Block) -> bool {
        if !is_block(&block.digest, &block.bytes) {
            return false;
        }
        let mut index = self.0.index();
        if !index.is_damaged(&block.digest) {
            return index.has(&block.digest);
        }
        index.enqueue(block.digest, block.bytes.clone());
        drop(index);
        self.0.work.notify_one();
        true
    }

    /// What the store holds and how far scrubbing is.
    #[must_use]
    pub fn report(&self) -> StoreReport {
        StoreReport { contents: self.0.contents(), scrub: self.0.scrub.report() }
    }

    /// Has all that is needed read once from the beginning, at the rate that the options give, or
    /// as fast as it goes if that is zero.
    pub fn scrub(&self) {
        self.0.scrub.request();
    }
}

impl Source for Blocks {
    fn get(&self, digest: &Digest) -> Option<Bytes> {
        if let Some(bytes) = self.0.cache.get(digest) {
            return Some(bytes);
        }
        match self.0.read(digest) {
            Ok(Some(bytes)) => {
                self.0.cache.insert(*digest, bytes.clone());
                Some(bytes)
            }
            // It may be of a state that is only now fetched. What is lost of ours is an error.
            Ok(None) | Err(_) => None,
        }
    }

    fn keep(&self, block: &Block) {
        let mut index = self.0.index();
        index.pin(block.digest);
        let write = !index.is_placed(&block.digest);
        if write {
            index.enqueue(block.digest, block.bytes.clone());
        }
        drop(index);
        if write {
            self.0.work.notify_one();
        }
        self.0.cache.insert(block.digest, block.bytes.clone());
    }

    fn has(&self, digest: &Digest) -> bool {
        self.0.index().is_here(digest)
    }
}

/// Reads blocks of stored checkpoints for other replicas.
#[derive(Clone, Debug)]
pub struct Reader(pub(super) Arc<Shared>);

impl Reader {
    /// The block with this digest, verified, if it is part of one of the last two checkpoints or
    /// was kept for a coming one.
    ///
    /// # Errors
    /// With [`io::ErrorKind::InvalidData`] when the block is damaged or lost.
    pub fn get(&self, digest: &Digest) -> io::Result<Option<Bytes>> {
        self.0.read(digest)
    }
}
