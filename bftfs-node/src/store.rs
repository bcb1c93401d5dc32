//! The store: the blocks of the newest checkpoints, by their digests.
//!
//! A pack is a log of blocks that were added, referred to again, or freed. A checkpoint appends to
//! the pack, then one of two superblocks is overwritten, in turn, with how far the pack counts.
//! When most of a pack is dead, the next checkpoint is written whole to a new one; the old one is
//! kept as long as a superblock speaks of it.

mod pack;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bftfs_state::{Block, Digest, Snapshot};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use self::pack::Pack;
use crate::data::{Blob, Durability, Error, Lock, Options, Seal, sync_directory};

const MAGIC: [u8; 8] = *b"bftfs-SB";
const SLOTS: [&str; 2] = ["superblock.0", "superblock.1"];

/// A checkpoint to write.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    /// Its sequence number.
    pub seq: u64,
    /// What else it consists of, opaque to the store; at most half a MiB.
    pub meta: &'a [u8],
    /// The blocks that the checkpoint written before it did not have.
    pub added: &'a [Block],
    /// The blocks that it no longer has, as often as they were added.
    pub freed: &'a [Digest],
    /// All of its trees.
    pub trees: &'a [Snapshot],
    /// It does not lead on from the checkpoint written before: write it whole.
    pub rewrite: bool,
}

/// The newest checkpoint that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedCheckpoint {
    /// Its sequence number.
    pub seq: u64,
    /// What was given with it.
    pub meta: Vec<u8>,
    /// The roots of its trees, in the order they were given.
    pub roots: Vec<Digest>,
}

/// What a superblock says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Superblock {
    /// One more than the superblock before it.
    generation: u64,
    newest: Option<Stored>,
}

/// A checkpoint and where it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    checkpoint: LoadedCheckpoint,
    pack: u64,
    /// How far the pack counts, in bytes.
    len: u64,
}

/// The checkpoints of one replica on disk.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    seal: Seal,
    options: Options,
    generation: u64,
    next_pack: u64,
    /// The pack that only the older superblock speaks of, if it is not the current one.
    outdated: Option<u64>,
    reader: Reader,
    failed: bool,
    _lock: Lock,
}

/// Reads blocks while a checkpoint is written.
#[derive(Clone, Debug)]
pub struct Reader(Arc<RwLock<Packs>>);

#[derive(Debug, Default)]
struct Packs {
    current: Option<Pack>,
    /// What was current before, until it is deleted.
    previous: Option<Pack>,
}

/// Makes an empty store.
pub(crate) fn create(dir: &Path, seal: &Seal) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io("create the directory", dir))?;
    if !Pack::list(dir)?.is_empty() {
        let reason = "it has checkpoints, but the file `identity` that belongs to it is missing";
        return Err(Error::damaged(dir, reason));
    }
    for (slot, generation) in SLOTS.iter().zip(0..) {
        let path = dir.join(slot);
        let superblock = Superblock { generation, newest: None };
        superblock.write(&path, seal, Durability::Sync).map_err(Error::io("write", &path))?;
    }
    sync_directory(dir)
}

impl Superblock {
    fn write(&self, path: &Path, seal: &Seal, durability: Durability) -> io::Result<()> {
        let bytes = postcard::to_allocvec(self).map_err(io::Error::other)?;
        Blob::write(path, &MAGIC, seal, &bytes, durability)
    }

    fn read(path: &Path, seal: &Seal) -> Result<Self, Error> {
        let bytes = Blob::read(path, &MAGIC, seal)?;
        postcard::from_bytes(&bytes)
            .map_err(|_| Error::damaged(path, "its contents cannot be read"))
    }

    /// The newest one, and the one before it if that is intact as well.
    fn newest(dir: &Path, seal: &Seal) -> Result<(Self, Option<Self>), Error> {
        let [first, second] = SLOTS.map(|slot| Self::read(&dir.join(slot), seal));
        let (newest, other) = match (first, second) {
            (Ok(first), Ok(second)) if first.generation > second.generation => {
                return Ok((first, Some(second)));
            }
            (Ok(first), Ok(second)) => return Ok((second, Some(first))),
            (Ok(one), Err(error)) | (Err(error), Ok(one)) => (one, error),
            (Err(error), Err(_)) => return Err(error),
        };
        // A crash while it was written, or damage; the other one is a checkpoint older at most.
        warn!("going on from the other superblock, of generation {}: {other}", newest.generation);
        Ok((newest, None))
    }
}

impl Store {
    pub(crate) fn open(
        dir: &Path,
        seal: Seal,
        options: Options,
        lock: Lock,
    ) -> Result<(Self, Option<LoadedCheckpoint>), Error> {
        let (newest, before) = Superblock::newest(dir, &seal)?;
        let mut packs = Packs::default();
        if let Some(stored) = &newest.newest {
            packs.current = Some(Pack::open(dir, stored.pack, stored.len)?);
        }
        let current = newest.newest.as_ref().map(|stored| stored.pack);
        let outdated = before.and_then(|before| before.newest).map(|stored| stored.pack);
        let outdated = outdated.filter(|pack| Some(*pack) != current);
        let kept = [current, outdated];
        let mut next_pack = 1;
        for (id, path) in Pack::list(dir)? {
            next_pack = next_pack.max(id + 1);
            if !kept.contains(&Some(id)) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        let store = Self {
            dir: dir.to_owned(),
            seal,
            options,
            generation: newest.generation,
            next_pack,
            outdated,
            reader: Reader(Arc::new(RwLock::new(packs))),
            failed: false,
            _lock: lock,
        };
        Ok((store, newest.newest.map(|stored| stored.checkpoint)))
    }

    /// A handle for other threads.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// The block with this digest, verified; see [`Reader::get`].
    ///
    /// # Errors
    /// When the disk fails or the block is damaged.
    pub fn get(&self, digest: &Digest) -> io::Result<Option<Bytes>> {
        self.reader.get(digest)
    }

    /// The bytes of all packs.
    #[must_use]
    pub fn size(&self) -> u64 {
        let packs = self.reader.read();
        packs.current.iter().chain(&packs.previous).map(Pack::len).sum()
    }

    /// Writes a checkpoint; when this returns it is the one that [`crate::data::open`] finds, and
    /// the one before it is still there. Takes long: call it on a thread of its own.
    ///
    /// # Errors
    /// When the disk fails or is full, or when `added` and `freed` do not lead from the checkpoint
    /// written before to this one. The store then takes no more checkpoints.
    pub fn write_checkpoint(&mut self, checkpoint: &Checkpoint<'_>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the store failed before and takes no more checkpoints"));
        }
        self.failed = true;
        let wasteful = |pack: &Pack| pack.is_wasteful(self.options.dead_bytes);
        let rewrite =
            checkpoint.rewrite || self.reader.read().current.as_ref().is_none_or(wasteful);
        let trees = checkpoint.trees;
        let written = if rewrite { self.rewrite(trees) } else { self.extend(checkpoint) };
        written?;
        self.flip(checkpoint, rewrite)?;
        self.failed = false;
        Ok(())
    }

    /// Appends what changed to the current pack.
    fn extend(&self, checkpoint: &Checkpoint<'_>) -> io::Result<()> {
        let mut packs = self.reader.write();
        let pack = packs.current.as_mut().expect("a first checkpoint is written whole");
        for block in checkpoint.added {
            pack.add(block)?;
        }
        for digest in checkpoint.freed {
            pack.free(digest)?;
        }
        pack.flush()?;
        let file = pack.file();
        drop(packs);
        if self.options.durability == Durability::Sync { file.sync_data() } else { Ok(()) }
    }

    /// Writes all blocks to a new pack, which becomes the current one.
    fn rewrite(&mut self, trees: &[Snapshot]) -> io::Result<()> {
        let mut pack = Pack::create(&self.dir, self.next_pack)?;
        self.next_pack += 1;
        for block in trees.iter().flat_map(Snapshot::blocks) {
            pack.add(&block)?;
        }
        pack.flush()?;
        if self.options.durability == Durability::Sync {
            pack.file().sync_all()?;
            fs::File::open(&self.dir)?.sync_all()?;
        }
        info!("wrote a whole checkpoint of {} bytes", pack.len());
        let mut packs = self.reader.write();
        packs.previous = packs.current.replace(pack);
        Ok(())
    }

    /// Makes the checkpoint the newest, by overwriting the older superblock; then deletes the pack
    /// that only that one spoke of.
    fn flip(&mut self, checkpoint: &Checkpoint<'_>, rewritten: bool) -> io::Result<()> {
        let roots: Vec<Digest> = checkpoint.trees.iter().map(Snapshot::root).collect();
        let packs = self.reader.read();
        let pack = packs.current.as_ref().expect("it was just written to");
        if let Some(root) = roots.iter().find(|root| !pack.contains(root)) {
            return Err(io::Error::other(format!("the checkpoint's root {root} was not added")));
        }
        let (seq, meta) = (checkpoint.seq, checkpoint.meta.to_vec());
        let checkpoint = LoadedCheckpoint { seq, meta, roots };
        let newest = Some(Stored { checkpoint, pack: pack.id(), len: pack.len() });
        let before = packs.previous.as_ref().map(Pack::id);
        drop(packs);

        self.generation += 1;
        let slot = SLOTS[usize::from(self.generation % 2 == 1)];
        let superblock = Superblock { generation: self.generation, newest };
        superblock.write(&self.dir.join(slot), &self.seal, self.options.durability)?;

        if let Some(outdated) = self.outdated.take() {
            let path = Pack::path(&self.dir, outdated);
            if let Err(error) = fs::remove_file(&path) {
                warn!(%error, "{}, no longer needed, cannot be removed", path.display());
            }
        }
        if rewritten {
            self.outdated = before;
        } else {
            self.reader.write().previous = None;
        }
        Ok(())
    }
}

impl Reader {
    /// The block with this digest, verified, if it is part of one of the last two checkpoints. Older
    /// ones may be there as well.
    ///
    /// # Errors
    /// When the disk fails, or with [`io::ErrorKind::InvalidData`] when the block is damaged.
    pub fn get(&self, digest: &Digest) -> io::Result<Option<Bytes>> {
        let packs = self.read();
        let place = [&packs.current, &packs.previous]
            .into_iter()
            .flatten()
            .find_map(|pack| pack.find(digest));
        drop(packs);
        place.map(|place| place.read(digest)).transpose()
    }

    fn read(&self) -> RwLockReadGuard<'_, Packs> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Packs> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
