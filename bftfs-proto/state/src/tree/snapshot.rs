//! A tree that no longer changes.

use alloc::vec::Vec;

use bytes::Bytes;

use super::node::{Node, Value};
use super::{Block, Tree};
use crate::Digest;

/// A sealed tree as it was when the snapshot was taken; shares what it can with the tree.
#[derive(Clone, Debug)]
pub struct Snapshot(Tree);

impl Snapshot {
    pub(super) fn new(tree: Tree) -> Self {
        assert!(tree.digest().is_some(), "only a sealed tree has a snapshot");
        Self(tree)
    }

    /// The digest of the root page.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.0.digest
    }

    /// The tree, to read it or to go on from a copy of it.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.0
    }

    /// All blocks of the tree, parents before children, equal values as often as they occur. Values
    /// that are not in memory are only named. Nothing is hashed; pages are copied as they are asked
    /// for, long values are shared.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        Parts { pending: [(self.0.digest, Item::Node(&self.0.root))].to_vec() }
    }

    /// The same with values from the source; those that it does not have are left out.
    #[must_use]
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { parts: self.parts(), tree: &self.0 }
    }
}

/// A block of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A page.
    Page(Block),
    /// A value in memory.
    Value(Block),
    /// A value that is with the source, and its length in bytes.
    Away(Digest, u64),
}

/// What a [`Snapshot`] consists of.
#[derive(Clone)]
pub struct Parts<'a> {
    pending: Vec<(Digest, Item<'a>)>,
}

/// The blocks of a [`Snapshot`].
#[derive(Clone)]
pub struct Blocks<'a> {
    parts: Parts<'a>,
    tree: &'a Tree,
}

#[derive(Clone, Copy)]
enum Item<'a> {
    Node(&'a Node),
    Value(&'a Value),
    Away(u64),
}

impl<'a> Parts<'a> {
    fn push_children(&mut self, node: &'a Node) {
        match node {
            Node::Inner(page) => self.pending.extend((0..page.len()).map(|at| {
                let child: &Node = page.link(at);
                (page.child_reference(at).digest, Item::Node(child))
            })),
            Node::Leaf(page) => self.pending.extend((0..page.len()).filter_map(|at| {
                let reference = page.reference(at)?;
                let away = Item::Away(reference.weight);
                let item = page.link(at).as_deref().map_or(away, Item::Value);
                Some((reference.digest, item))
            })),
        }
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let (digest, item) = self.pending.pop()?;
        Some(match item {
            Item::Node(node) => {
                self.push_children(node);
                Part::Page(Block { digest, bytes: Bytes::copy_from_slice(node.bytes()) })
            }
            Item::Value(value) => Part::Value(Block { digest, bytes: value.to_bytes() }),
            Item::Away(length) => Part::Away(digest, length),
        })
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        loop {
            match self.parts.next()? {
                Part::Page(block) | Part::Value(block) => return Some(block),
                Part::Away(digest, _) => {
                    if let Some(bytes) = self.tree.source.as_ref().and_then(|s| s.get(&digest)) {
                        return Some(Block { digest, bytes });
                    }
                }
            }
        }
    }
}

impl core::fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parts").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Blocks").field(&self.parts).finish()
    }
}
