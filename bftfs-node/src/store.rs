//! The store: the blocks of the newest checkpoints, by their digests.
//!
//! Blocks are appended to packs, files of about 64 MiB. A checkpoint appends what is not there yet,
//! then one of two superblocks is overwritten, in turn, with how far the packs count. How often a
//! block is referred to is counted in memory, and at the start from the pages of the trees. A pack
//! of which little is needed is emptied by moving that to the end, and removed when no superblock
//! speaks of it.

mod append;
mod blocks;
mod clean;
mod disk;
mod index;
mod open;
mod pack;
mod scrub;
mod superblock;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bftfs_state::{Block, Digest, Part, Snapshot};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

use self::blocks::Shared;
pub use self::blocks::{Blocks, Contents, Reader, StoreReport};
use self::disk::Disk;
pub use self::scrub::ScrubReport;
use self::superblock::Superblock;
pub use self::verify::Damage;
pub(crate) use self::verify::verify;
use self::walk::walk;
use crate::data::{Durability, Error, Lock, Seal};

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
    /// All of its trees. Their roots count; the rest is looked at for `rewrite` only.
    pub trees: &'a [Snapshot],
    /// It does not lead on from the checkpoint written before: all of its blocks that are not there
    /// are written, and what refers to them is counted anew.
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

/// What is not known of who needs which blocks, since pages are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsure {
    Nothing,
    /// What the checkpoint before the newest needs.
    Before,
    /// What the newest needs, too.
    Newest,
}

/// The checkpoints of one replica on disk.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    /// The threads that write blocks that were kept, and that look for damage.
    threads: Vec<JoinHandle<()>>,
    newest: Option<LoadedCheckpoint>,
    before: Option<LoadedCheckpoint>,
    /// Blocks that only the checkpoint before the newest needs.
    retiring: Vec<Digest>,
    /// Bytes that are dead since the newest checkpoint was written.
    released: u64,
    /// Packs of which only the older superblock speaks.
    doomed: Vec<u32>,
    unsure: Unsure,
    failed: bool,
    damaged: Option<UnboundedReceiver<Digest>>,
    _lock: Lock,
}

/// Makes an empty store.
pub(crate) fn create(dir: &Path, seal: &Seal) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(Error::io("create the directory", dir))?;
    if !pack::files(dir)?.is_empty() {
        let reason = "it has checkpoints, but the file `identity` that belongs to it is missing";
        return Err(Error::damaged(dir, reason));
    }
    let disk = Disk::new(dir, Durability::Sync);
    let make = || {
        for generation in [0, 1] {
            let superblock = Superblock { generation, ..Superblock::default() };
            superblock.create(&disk, seal)?;
        }
        disk.sync_names()
    };
    make().map_err(Error::io("write a superblock in", dir))
}

/// Brings a store of format 1 to the present one; nothing is lost when that is cut short.
pub(crate) fn upgrade(dir: &Path, seal: &Seal) -> Result<(), Error> {
    superblock::upgrade(&Disk::new(dir, Durability::Sync), dir, seal)
}

impl Store {
    /// A handle for other threads that read what is stored.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader(self.shared.clone())
    }

    /// A handle for the trees that have their long values here, and for repairs.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        Blocks(self.shared.clone())
    }

    /// The digests of blocks that turn out to be damaged or lost, each once until it is mended
    /// ([`Blocks::mend`]). Can be taken once.
    pub fn take_damaged(&mut self) -> Option<UnboundedReceiver<Digest>> {
        self.damaged.take()
    }

    /// The block with this digest, verified; see [`Reader::get`].
    ///
    /// # Errors
    /// When the block is damaged or lost.
    pub fn get(&self, digest: &Digest) -> io::Result<Option<Bytes>> {
        self.shared.read(digest)
    }

    /// The bytes of all packs.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.index().bytes().0
    }

    /// The bytes of the packs that something needs.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.shared.index().bytes().1
    }

    /// What the store holds.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.shared.contents()
    }

    /// Counts anew what refers to each block, from the pages of both checkpoints; done at the
    /// start, and of use again when pages that were damaged are mended. Returns whether all of the
    /// newest checkpoint is there. While it is not, nothing is thrown away.
    pub fn recount(&mut self) -> bool {
        let shared = &self.shared;
        shared.index().forget_references();
        let roots = |checkpoint: &Option<LoadedCheckpoint>| {
            checkpoint.as_ref().map_or_else(Vec::new, |found| found.roots.clone())
        };
        let unreadable = walk(shared, &roots(&self.newest), &mut |digest| {
            shared.index().refer(*digest);
            true
        });
        let mut retiring = Vec::new();
        let unreadable_before = walk(shared, &roots(&self.before), &mut |digest| {
            let mut index = shared.index();
            let news = !index.is_referred_to(digest) && index.retire(*digest);
            if news {
                retiring.push(*digest);
            }
            news
        });
        self.retiring = retiring;
        self.unsure = match (unreadable.is_empty(), unreadable_before.is_empty()) {
            (true, true) => Unsure::Nothing,
            (true, false) => Unsure::Before,
            (false, _) => Unsure::Newest,
        };
        if self.unsure == Unsure::Nothing {
            self.shared.index().sweep();
        }
        let lost = self.note_lost();
        lost == 0 && unreadable.is_empty()
    }

    /// Has the blocks repaired that the newest checkpoint needs and that are nowhere.
    fn note_lost(&self) -> usize {
        let lost = self.shared.index().lost();
        for digest in &lost {
            self.shared.note_damage(*digest, &format!("block {digest} is lost"));
        }
        lost.len()
    }

    /// Writes a checkpoint; when this returns it is the one that [`crate::data::open`] finds, and
    /// the one before it is still there. Takes long: call it on a thread of its own.
    ///
    /// # Errors
    /// When the disk fails or is full, or when `added` and `freed` do not lead from the checkpoint
    /// written before to this one. The store then takes no more checkpoints.
    pub fn write_checkpoint(&mut self, checkpoint: &Checkpoint<'_>) -> io::Result<()> {
        self.begin()?;
        // What was mended is durable with this checkpoint.
        let queued = self.shared.index().queued();
        self.shared.write_queued(queued)?;
        let roots: Vec<Digest> = checkpoint.trees.iter().map(Snapshot::root).collect();
        let retired = if checkpoint.rewrite {
            self.rewrite(checkpoint.trees, &roots)?
        } else {
            self.extend(checkpoint)?
        };
        let added = checkpoint.added.iter().map(|block| block.bytes.len() as u64).sum::<u64>();
        let budget = self.shared.options.clean_bytes + 2 * (added + self.released);
        let (seq, meta) = (checkpoint.seq, checkpoint.meta.to_vec());
        let loaded = LoadedCheckpoint { seq, meta, roots };
        self.complete(loaded, retired, budget, checkpoint.rewrite)
    }

    /// Writes the first checkpoint from blocks that came from elsewhere, in any order.
    ///
    /// # Errors
    /// When the disk fails, or a block cannot be had, or one of the trees is missing. The store then
    /// takes no more checkpoints.
    pub(crate) fn import(
        &mut self,
        checkpoint: LoadedCheckpoint,
        blocks: impl Iterator<Item = io::Result<Block>>,
    ) -> io::Result<()> {
        self.begin()?;
        let mut appender = self.shared.appender();
        for block in blocks {
            let Block { digest, bytes } = block?;
            appender.append(&self.shared, &digest, &bytes)?;
        }
        appender.flush(&self.shared)?;
        drop(appender);
        let refuse = |reason| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        let retired = match self.count_whole(&checkpoint.roots) {
            Ok(retired) => retired,
            Err(page) => return refuse(format!("page {page} is missing or malformed")),
        };
        let index = self.shared.index();
        let (lost, idle) = (index.lost(), index.idle());
        drop(index);
        if let Some(lost) = lost.first() {
            return refuse(format!("block {lost} is missing"));
        }
        if let Some(idle) = idle.first() {
            return refuse(format!("block {idle} is not part of it"));
        }
        self.complete(checkpoint, retired, 0, true)
    }

    /// Until the checkpoint is written, the store counts as failed.
    fn begin(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the store failed before and takes no more checkpoints"));
        }
        self.failed = true;
        let failure = self.shared.index().failure.clone();
        failure.map_or(Ok(()), |failure| Err(io::Error::other(failure)))
    }

    /// Cleans, makes the checkpoint the newest, and lets go of what it no longer needs.
    fn complete(
        &mut self,
        checkpoint: LoadedCheckpoint,
        retired: Vec<Digest>,
        budget: u64,
        rewritten: bool,
    ) -> io::Result<()> {
        let mut roots = checkpoint.roots.iter();
        if let Some(root) = roots.find(|root| !self.shared.index().is_referred_to(root)) {
            return Err(io::Error::other(format!("the checkpoint's root {root} was not added")));
        }
        let emptied = match self.unsure {
            Unsure::Nothing => clean::clean(&self.shared, budget)?,
            Unsure::Before | Unsure::Newest => Vec::new(),
        };
        self.flip(checkpoint)?;
        for id in std::mem::replace(&mut self.doomed, emptied) {
            self.remove_pack(id);
        }
        self.settle(retired, rewritten);
        self.failed = false;
        Ok(())
    }

    /// Appends what was added and is not there; returns the blocks that nothing in this checkpoint
    /// refers to any more.
    fn extend(&self, checkpoint: &Checkpoint<'_>) -> io::Result<Vec<Digest>> {
        let shared = &self.shared;
        self.append_missing(checkpoint.added.iter())?;
        for block in checkpoint.added {
            let mut index = shared.index();
            index.refer(block.digest);
            index.unpin(&block.digest);
        }
        let mut retired = Vec::new();
        for digest in checkpoint.freed {
            match shared.index().drop_reference(digest) {
                Some(true) => retired.push(*digest),
                Some(false) => {}
                None if self.unsure == Unsure::Newest => {}
                None => {
                    let error = format!("block {digest} is freed more often than added");
                    return Err(io::Error::other(error));
                }
            }
        }
        Ok(retired)
    }

    /// Appends the blocks of the trees that are not there and counts all references anew; returns
    /// the blocks that the checkpoint before had and this one has not.
    fn rewrite(&mut self, trees: &[Snapshot], roots: &[Digest]) -> io::Result<Vec<Digest>> {
        // A page that was there may turn out to be damaged: then it is missing the second time.
        for _ in 0..2 {
            for tree in trees {
                self.append_missing(tree.parts().filter_map(|part| match part {
                    Part::Page(block) => Some(block),
                    Part::Value(block) => {
                        // A copy that is damaged is noted, so that it counts as missing. Pages are
                        // read in any case.
                        drop(self.shared.read(&block.digest));
                        Some(block)
                    }
                    // It was kept, so it is here.
                    Part::Away(..) => None,
                }))?;
            }
            if let Ok(retired) = self.count_whole(roots) {
                self.note_lost();
                return Ok(retired);
            }
        }
        Err(io::Error::other("pages of the checkpoint cannot be read back from the disk"))
    }

    /// Counts all references anew, from the pages below `roots`; returns the blocks that were
    /// referred to and are no longer, or a page that cannot be read.
    fn count_whole(&mut self, roots: &[Digest]) -> Result<Vec<Digest>, Digest> {
        let mut counts: HashMap<Digest, u32> = HashMap::new();
        let unreadable = walk(&self.shared, roots, &mut |digest| {
            let count = counts.entry(*digest).or_insert(0);
            *count = count.saturating_add(1);
            true
        });
        if let Some(page) = unreadable.first() {
            return Err(*page);
        }
        let mut index = self.shared.index();
        counts.keys().for_each(|digest| index.unpin(digest));
        let retired = index.recount(counts);
        // Of the checkpoint before, no more is known than was.
        if self.unsure == Unsure::Newest {
            self.unsure = Unsure::Before;
        }
        Ok(retired)
    }

    /// The digests of all blocks below a page of the newest checkpoint, each once.
    pub(crate) fn blocks_below(&self, root: &Digest) -> io::Result<Vec<Digest>> {
        let mut seen = std::collections::HashSet::new();
        let mut blocks = Vec::new();
        let unreadable = walk(&self.shared, &[*root], &mut |digest| {
            let new = seen.insert(*digest);
            if new {
                blocks.push(*digest);
            }
            new
        });
        match unreadable.first() {
            Some(page) => Err(io::Error::other(format!("page {page} is damaged or lost"))),
            None => Ok(blocks),
        }
    }

    fn append_missing<B: std::borrow::Borrow<Block>>(
        &self,
        blocks: impl Iterator<Item = B>,
    ) -> io::Result<()> {
        let mut appender = self.shared.appender();
        let mut seen = std::collections::HashSet::new();
        for block in blocks {
            let block = block.borrow();
            if !self.shared.index().is_placed(&block.digest) && seen.insert(block.digest) {
                appender.append(&self.shared, &block.digest, &block.bytes)?;
            }
        }
        appender.flush(&self.shared)
    }

    /// Makes everything durable that was written, then the checkpoint the newest, by overwriting
    /// the older superblock.
    fn flip(&mut self, checkpoint: LoadedCheckpoint) -> io::Result<()> {
        let shared = &self.shared;
        let unsynced = shared.appender().take_unsynced(shared)?;
        for file in &unsynced.files {
            shared.disk.sync(file)?;
        }
        if unsynced.new_names {
            shared.disk.sync_names()?;
        }
        let generation = shared.index().generation + 1;
        let superblock = Superblock {
            generation,
            newest: Some(checkpoint),
            before: self.newest.take(),
            packs: unsynced.packs,
        };
        superblock.write(&shared.disk, &shared.seal)?;
        shared.index().generation = generation;
        (self.newest, self.before) = (superblock.newest, superblock.before);
        Ok(())
    }

    /// Lets go of what neither of the two checkpoints needs.
    fn settle(&mut self, retired: Vec<Digest>, rewritten: bool) {
        let mut index = self.shared.index();
        if self.unsure == Unsure::Newest {
            for digest in retired {
                index.retire(digest);
                self.retiring.push(digest);
            }
            return;
        }
        let old = std::mem::replace(&mut self.retiring, retired);
        old.iter().for_each(|digest| index.unretire(digest));
        for digest in &self.retiring {
            index.retire(*digest);
        }
        self.released = old.iter().map(|digest| index.release(digest)).sum();
        index.expire_pins();
        if self.unsure == Unsure::Before && !rewritten {
            self.unsure = Unsure::Nothing;
            index.sweep();
        }
    }

    /// Removes a pack of which no superblock speaks.
    fn remove_pack(&self, id: u32) {
        for name in [pack::name(id), pack::list_name(id)] {
            match self.shared.disk.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!("a file that is no longer needed stays: {error}");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Nothing may be written when the directory is no longer locked.
        self.shared.close();
        for thread in self.threads.drain(..) {
            // A panic has ended the process before.
            drop(thread.join());
        }
    }
}
