//! The tree: a copy-on-write Merkle B+-tree of byte keys and byte values.
//!
//! Nodes are shared between a tree and its clones until one of them changes, and a change copies
//! the path from the root to one leaf. Its shape is decided by the operations alone, so replicas
//! that execute the same operations have the same blocks and the same root digest.

mod entry;
mod load;
mod node;
mod page;
mod range;
mod snapshot;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;

use bytes::Bytes;

use self::node::{Leaf, Node};
use crate::{Digest, Found, Source};

pub use self::entry::Entry;
pub use self::load::{Children, OpenError, block_children, is_block};
pub use self::page::{MAX_KEY, MAX_VALUE};
pub use self::range::Range;
pub use self::snapshot::{Blocks, Part, Parts, Snapshot};

/// A page of the tree or a value too long for a page, named by its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The name: a BLAKE3 hash of the bytes, keyed by the kind of block.
    pub digest: Digest,
    /// The encoding.
    pub bytes: Bytes,
}

/// What [`Tree::seal`] found changed.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The digest of the whole tree.
    pub root: Digest,
    /// The blocks that are new since the tree was last sealed, children before parents.
    pub added: Vec<Block>,
    /// The blocks that the tree had when it was last sealed and has no longer.
    ///
    /// A digest is in here or in `added` once for each place in the tree that the block left or
    /// took. So a store that counts references, adding before it frees, has each block of the
    /// tree as often as it occurs, and no other.
    pub freed: Vec<Digest>,
}

/// An ordered map from keys of 1 to [`MAX_KEY`] bytes to values of up to [`MAX_VALUE`] bytes.
///
/// A clone takes constant time and shares everything with the original until either changes.
///
/// A tree with a [`Source`] gives it the long values whenever it is sealed, and holds pages and
/// what changed since. If the source has not got a value that is needed, the tree goes on with an
/// empty one and [`Tree::missed`] tells: whatever was computed then is worth nothing.
///
/// # Panics
/// Insertions panic on keys and values out of these bounds: those who give a tree its keys and
/// values check what they were told.
#[derive(Clone)]
pub struct Tree {
    root: Arc<Node>,
    /// [`Digest::ZERO`] while the tree has changes that are not sealed.
    digest: Digest,
    len: u64,
    freed: Vec<Digest>,
    source: Option<Arc<dyn Source>>,
    missed: Cell<Option<Digest>>,
}

impl Tree {
    /// A tree without keys, not sealed, that holds everything in memory.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Arc::new(Node::Leaf(Leaf::new(0))), Digest::ZERO, 0, None)
    }

    /// The same that leaves long values to `source`.
    #[must_use]
    pub fn over(source: Arc<dyn Source>) -> Self {
        Self { source: Some(source), ..Self::new() }
    }

    fn with(root: Arc<Node>, digest: Digest, len: u64, source: Option<Arc<dyn Source>>) -> Self {
        Self { root, digest, len, freed: Vec::new(), source, missed: Cell::new(None) }
    }

    /// Loads the tree whose root page has digest `root` from its blocks.
    ///
    /// The tree is sealed and has the shape it had. Every block is verified before it is used.
    ///
    /// # Errors
    /// When a block is missing, has other bytes than its digest says, or breaks a rule of the tree.
    pub fn open(
        root: Digest,
        fetch: &mut dyn FnMut(&Digest) -> Option<Bytes>,
    ) -> Result<Self, OpenError> {
        let (node, len) = load::open(root, &mut load::Fetch { block: fetch, values: true })?;
        Ok(Self::with(node, root, len, None))
    }

    /// The same from the blocks of `source`, to which long values are left: only pages are read.
    ///
    /// # Errors
    /// When a page is missing, has other bytes than its digest says, or breaks a rule of the tree.
    pub fn open_over(root: Digest, source: Arc<dyn Source>) -> Result<Self, OpenError> {
        let mut block = |digest: &Digest| source.get(digest);
        let mut fetch = load::Fetch { block: &mut block, values: false };
        let (node, len) = load::open(root, &mut fetch)?;
        Ok(Self::with(node, root, len, Some(source)))
    }

    /// The value that was needed and that the source has not got, since this was asked last.
    pub fn missed(&self) -> Option<Digest> {
        self.missed.take()
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Found<'_>> {
        self.entry(key).map(Entry::read)
    }

    /// The value of `key`, which is read only when asked for.
    #[must_use]
    pub fn entry(&self, key: &[u8]) -> Option<Entry<'_>> {
        let (leaf, at) = self.root.find(key)?;
        Some(Entry::new(self, leaf.value(at)))
    }

    /// Whether `key` has a value.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.entry(key).is_some()
    }

    /// Sets the value of `key`, whether it had one or not.
    ///
    /// # Panics
    /// When the key or the value is out of bounds.
    pub fn insert(&mut self, key: &[u8], value: impl Into<Vec<u8>>) {
        check_key(key);
        let value = value.into();
        let new = self.edit(key, |leaf, at, freed| {
            leaf.put(at, key, value, freed);
            at.is_err()
        });
        self.len += u64::from(new);
    }

    /// Changes the value of `key` in place; returns false if it has none.
    ///
    /// # Panics
    /// When the value becomes too long.
    pub fn update(&mut self, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let found = self.contains(key);
        if found {
            self.upsert(key, change);
        }
        found
    }

    /// Changes the value of `key` in place, starting from an empty one if it has none.
    ///
    /// # Panics
    /// When the key is out of bounds or the value becomes too long.
    pub fn upsert(&mut self, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        check_key(key);
        let (source, missed) = (self.source.clone(), Cell::new(None));
        let fetch = |digest: &Digest| fetch(source.as_deref(), digest, &missed);
        let new = self.edit(key, |leaf, at, freed| {
            match at {
                Ok(at) => leaf.modify(at, freed, fetch, change),
                Err(_) => {
                    let mut value = Vec::new();
                    change(&mut value);
                    leaf.put(at, key, value, freed);
                }
            }
            at.is_err()
        });
        self.len += u64::from(new);
        self.missed.set(self.missed.get().or_else(|| missed.get()));
    }

    /// Removes `key` and its value; returns false if it has none.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let found = self.contains(key);
        if found {
            self.edit(key, |leaf, at, freed| {
                leaf.take(at.expect("the key was found above"), freed);
            });
            self.len -= 1;
        }
        found
    }

    /// The keys from `from` on and below `below`, in ascending order, with their values.
    #[must_use]
    pub fn range(&self, from: &[u8], below: &[u8]) -> Range<'_> {
        Range::new(self, from, Some(below.to_vec()))
    }

    /// The keys that start with `prefix`, in ascending order, with their values.
    #[must_use]
    pub fn prefix(&self, prefix: &[u8]) -> Range<'_> {
        Range::new(self, prefix, range::successor(prefix))
    }

    /// The least key that is not below `key`, with its value.
    #[must_use]
    pub fn first_at_or_after(&self, key: &[u8]) -> Option<(&[u8], Entry<'_>)> {
        Range::new(self, key, None).next()
    }

    /// Computes the digests of whatever changed since the tree was last sealed.
    pub fn seal(&mut self) -> Sealed {
        let mut added = Vec::new();
        if self.digest == Digest::ZERO {
            let reference = Node::seal(&mut self.root, self.source.as_deref(), &mut added);
            assert_eq!(reference.weight, self.len, "the tree counts its keys");
            self.digest = reference.digest;
        }
        Sealed { root: self.digest, added, freed: core::mem::take(&mut self.freed) }
    }

    /// The digest of the whole tree, if it did not change since it was sealed.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        (self.digest != Digest::ZERO).then_some(self.digest)
    }

    /// The digest that [`Tree::seal`] gives, computed from all keys and values: the check that
    /// sealing what changed is enough. Takes as long as the tree is big.
    #[must_use]
    pub fn digest_from_scratch(&self) -> Digest {
        self.root.reference_from_scratch().digest
    }

    /// The tree as it is, in constant time.
    ///
    /// # Panics
    /// When the tree has changes that are not sealed.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.clone())
    }

    /// Calls `change` with the leaf of `key`; the whole path to it counts as changed.
    fn edit<T>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut Leaf, Result<usize, usize>, &mut Vec<Digest>) -> T,
    ) -> T {
        if self.digest != Digest::ZERO {
            self.freed.push(self.digest);
            self.digest = Digest::ZERO;
        }
        let result = Arc::make_mut(&mut self.root).edit(key, &mut self.freed, change);
        Node::settle_root(&mut self.root);
        result
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.digest();
        f.debug_struct("Tree").field("len", &self.len).field("digest", &digest).finish()
    }
}

/// A value from the source; an empty one, with a note, if it has not got it.
fn fetch(source: Option<&dyn Source>, digest: &Digest, missed: &Cell<Option<Digest>>) -> Bytes {
    source.and_then(|source| source.get(digest)).unwrap_or_else(|| {
        missed.set(missed.get().or(Some(*digest)));
        Bytes::new()
    })
}

fn check_key(key: &[u8]) {
    assert!((1..=MAX_KEY).contains(&key.len()), "a key of {} bytes is out of bounds", key.len());
}
