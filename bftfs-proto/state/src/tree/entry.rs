//! A value that may have to be fetched.

use super::page::Reference;
use super::{Tree, fetch};
use crate::{Digest, Found};

/// The value of a key. Its length is known; its bytes may have to be fetched.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    tree: &'a Tree,
    value: Result<&'a [u8], Reference>,
}

impl<'a> Entry<'a> {
    pub(super) fn new(tree: &'a Tree, value: Result<&'a [u8], Reference>) -> Self {
        Self { tree, value }
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a value is at most MAX_VALUE bytes long")]
    pub fn len(&self) -> usize {
        self.value.map_or_else(|reference| reference.weight as usize, <[u8]>::len)
    }

    /// Whether the value has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The block that has the bytes, if they are not in memory.
    #[must_use]
    pub fn away(&self) -> Option<Digest> {
        self.value.err().map(|reference| reference.digest)
    }

    /// The bytes. If the source has not got them, none, and [`Tree::missed`] tells.
    #[must_use]
    pub fn read(self) -> Found<'a> {
        match self.value {
            Ok(bytes) => Found::Here(bytes),
            Err(reference) => {
                let source = self.tree.source.as_deref();
                Found::Fetched(fetch(source, &reference.digest, &self.tree.missed))
            }
        }
    }
}

impl core::fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Entry").field(&self.value).finish()
    }
}
