//! Where long values are while they are not in memory.

use core::fmt;
use core::ops::Deref;

use bytes::Bytes;

use crate::{Block, Digest};

/// Blocks outside of the tree, by their digest. A tree with a source holds its pages and whatever
/// changed since it was sealed; all other long values are with the source.
pub trait Source: fmt::Debug + Send + Sync {
    /// The bytes of a block, verified; `None` if it is not there or is damaged. Whoever asked then
    /// has no answer until the block was repaired.
    fn get(&self, digest: &Digest) -> Option<Bytes>;

    /// Takes a block in: from now on [`Source::get`] gives it, for as long as a checkpoint refers
    /// to it or may yet.
    fn keep(&self, block: &Block);

    /// Whether the block should be there. Cheaper than reading it.
    fn has(&self, digest: &Digest) -> bool {
        self.get(digest).is_some()
    }
}

/// A value of a tree.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// It is in memory.
    Here(&'a [u8]),
    /// It came from the source.
    Fetched(Bytes),
}

impl Deref for Found<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Here(bytes) => bytes,
            Self::Fetched(bytes) => bytes,
        }
    }
}
