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

    /// All blocks of the tree, parents before children, equal values as often as they occur.
    /// Nothing is hashed; pages are copied as they are asked for, long values are shared.
    #[must_use]
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { pending: [(self.0.digest, Item::Node(&self.0.root))].to_vec() }
    }
}

/// The blocks of a [`Snapshot`].
#[derive(Clone)]
pub struct Blocks<'a> {
    pending: Vec<(Digest, Item<'a>)>,
}

#[derive(Clone, Copy)]
enum Item<'a> {
    Node(&'a Node),
    Value(&'a Value),
}

impl<'a> Blocks<'a> {
    fn push_children(&mut self, node: &'a Node) {
        match node {
            Node::Inner(page) => self.pending.extend((0..page.len()).map(|at| {
                let child: &Node = page.link(at);
                (page.child_reference(at).digest, Item::Node(child))
            })),
            Node::Leaf(page) => self.pending.extend((0..page.len()).filter_map(|at| {
                let value: &Value = page.link(at).as_ref()?;
                Some((page.reference(at)?.digest, Item::Value(value)))
            })),
        }
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let (digest, item) = self.pending.pop()?;
        let bytes = match item {
            Item::Node(node) => {
                self.push_children(node);
                Bytes::copy_from_slice(node.bytes())
            }
            Item::Value(value) => value.to_bytes(),
        };
        Some(Block { digest, bytes })
    }
}

impl core::fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Blocks").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}
