//! Walks in key order.

use alloc::vec::Vec;

use super::node::{Inner, Leaf, Node};
use super::{Entry, Tree};

/// Keys and values of a [`Tree`] in ascending order of the keys.
#[derive(Clone)]
pub struct Range<'a> {
    tree: &'a Tree,
    /// The inner pages above `leaf`, each with the position of the child to visit next.
    above: Vec<(&'a Inner, usize)>,
    leaf: Option<(&'a Leaf, usize)>,
    below: Option<Vec<u8>>,
}

impl<'a> Range<'a> {
    pub(super) fn new(tree: &'a Tree, from: &[u8], below: Option<Vec<u8>>) -> Self {
        let mut range = Self { tree, above: Vec::new(), leaf: None, below };
        range.descend(&tree.root, from);
        range
    }

    /// Goes down to where `from` is or belongs.
    fn descend(&mut self, mut node: &'a Node, from: &[u8]) {
        loop {
            match node {
                Node::Inner(page) => {
                    let at = page.child_of(from);
                    self.above.push((page, at + 1));
                    node = page.link(at);
                }
                Node::Leaf(page) => {
                    self.leaf = Some((page, page.search(from).unwrap_or_else(|at| at)));
                    return;
                }
            }
        }
    }

    /// Goes to the start of the next leaf, or to the end.
    fn next_leaf(&mut self) {
        self.leaf = None;
        while let Some((page, next)) = self.above.last_mut() {
            if *next < page.len() {
                let child = page.link(*next);
                *next += 1;
                return self.descend(child, &[]);
            }
            self.above.pop();
        }
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = (&'a [u8], Entry<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (page, at) = self.leaf.as_mut()?;
            if *at == page.len() {
                self.next_leaf();
                continue;
            }
            let (key, entry) = (page.key(*at), Entry::new(self.tree, page.value(*at)));
            *at += 1;
            if self.below.as_ref().is_some_and(|below| key >= below.as_slice()) {
                self.leaf = None;
                return None;
            }
            return Some((key, entry));
        }
    }
}

impl core::fmt::Debug for Range<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Range").field("below", &self.below).finish_non_exhaustive()
    }
}

/// The least key above all keys that start with `prefix`; `None` if there is no such key.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut successor = prefix[..=last].to_vec();
    successor[last] += 1;
    Some(successor)
}
