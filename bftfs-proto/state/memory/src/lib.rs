//! Blocks in memory: what the store is to a real replica, for the simulator and for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bftfs_state::{Block, Digest, Source};
use bytes::Bytes;

#[derive(Debug, Default)]
struct Blocks {
    held: BTreeMap<Digest, Bytes>,
    /// Those that are damaged until they are kept again.
    damaged: BTreeSet<Digest>,
    /// How often a damaged one was made good.
    mended: u64,
}

/// Keeps every block it is given, until it is told which to retain.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Blocks>);

impl Memory {
    /// Without any block.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Damages a block: it is not given any more until somebody brings it back.
    pub fn damage(&self, digest: Digest) {
        self.blocks().damaged.insert(digest);
    }

    /// Whether a block is damaged.
    #[must_use]
    pub fn is_damaged(&self, digest: &Digest) -> bool {
        self.blocks().damaged.contains(digest)
    }

    /// How often a damaged block was made good.
    #[must_use]
    pub fn mended(&self) -> u64 {
        self.blocks().mended
    }

    /// Forgets all blocks but these.
    pub fn retain(&self, wanted: impl Fn(&Digest) -> bool) {
        let mut blocks = self.blocks();
        blocks.held.retain(|digest, _| wanted(digest));
        blocks.damaged.retain(|digest| wanted(digest));
    }

    /// Whether the block is there, damaged or not.
    #[must_use]
    pub fn holds(&self, digest: &Digest) -> bool {
        self.blocks().held.contains_key(digest)
    }
}

impl Source for Memory {
    fn get(&self, digest: &Digest) -> Option<Bytes> {
        let blocks = self.blocks();
        let intact = !blocks.damaged.contains(digest);
        blocks.held.get(digest).filter(|_| intact).cloned()
    }

    fn keep(&self, block: &Block) {
        let mut blocks = self.blocks();
        blocks.mended += u64::from(blocks.damaged.remove(&block.digest));
        blocks.held.insert(block.digest, block.bytes.clone());
    }
}
