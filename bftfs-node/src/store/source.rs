//! Where long values are while they are not in memory.

use core::fmt;

use bftfs_state::{Block, Digest};
use bytes::Bytes;

/// Blocks outside of the tree, by their digest.
pub trait Source: fmt::Debug + Send + Sync {
    /// The bytes of the block with this digest, verified; `None` if it is not there or is damaged.
    /// The implementation notes which, so that it can be repaired.
    fn get(&self, digest: &Digest) -> Option<Bytes>;

    /// Takes a block in: from now on [`Source::get`] gives it, for as long as a checkpoint refers
    /// to it or may yet.
    fn keep(&self, block: &Block);

    /// Whether the block should be there. Cheaper than reading it.
    fn has(&self, digest: &Digest) -> bool {
        self.get(digest).is_some()
    }
}
