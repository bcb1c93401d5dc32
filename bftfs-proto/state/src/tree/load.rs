//! Trees from blocks that came from elsewhere: nothing is used before it is verified.

use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;
use thiserror::Error;

use super::node::{Inner, Leaf, Node, Value, page_digest, value_digest};
use super::page::{
    MAX_INLINE, MAX_KEY, MAX_PAGE, MAX_VALUE, MIN_PAGE, Payload, RawEntry, Reference, read_entry,
};
use crate::Digest;

/// Levels above the leaves. Two children per page are the least, most have dozens: a higher tree
/// than this would have more keys than memory can hold.
const MAX_LEVEL: u8 = 24;

/// Why blocks are not the tree that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The source of blocks does not have this one.
    #[error("block {0} is missing")]
    Missing(Digest),
    /// The bytes do not have the digest by which they were asked for.
    #[error("the bytes given for block {0} are not those of the block")]
    Mismatch(Digest),
    /// The digest fits, but a correct replica would never have made such a block.
    #[error("block {digest} is malformed: {reason}")]
    Malformed {
        /// The block.
        digest: Digest,
        /// The rule that it breaks.
        reason: &'static str,
    },
}

/// What a block refers to, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Children {
    /// Of an inner page: pages.
    Pages(Vec<Digest>),
    /// Of a leaf: values. A value has none.
    Values(Vec<Digest>),
}

impl Children {
    /// All of them, whatever they are.
    #[must_use]
    pub fn into_digests(self) -> Vec<Digest> {
        match self {
            Self::Pages(digests) | Self::Values(digests) => digests,
        }
    }
}

/// The blocks that the block with this digest refers to.
///
/// # Errors
/// When `bytes` do not have that digest, or are a page that breaks a rule that can be seen within
/// it. That it stands in its right place is for [`super::Tree::open`] to see.
pub fn block_children(digest: &Digest, bytes: &[u8]) -> Result<Children, OpenError> {
    if value_digest(bytes) == *digest {
        return Ok(Children::Values(Vec::new()));
    }
    let page = RawPage::read(*digest, bytes)?;
    let children = page.entries.iter().filter_map(RawEntry::reference).map(|r| r.digest).collect();
    Ok(if page.level == 0 { Children::Values(children) } else { Children::Pages(children) })
}

/// Whether `bytes` are those of the block with this digest, page or value.
#[must_use]
pub fn is_block(digest: &Digest, bytes: &[u8]) -> bool {
    page_digest(bytes) == *digest || value_digest(bytes) == *digest
}

/// Where blocks come from.
pub(super) struct Fetch<'a> {
    pub(super) block: &'a mut dyn FnMut(&Digest) -> Option<Bytes>,
    /// Values are loaded as well.
    pub(super) values: bool,
}

/// Loads the whole tree below `root`; returns its root node and its number of keys.
pub(super) fn open(root: Digest, fetch: &mut Fetch<'_>) -> Result<(Arc<Node>, u64), OpenError> {
    let bytes = (fetch.block)(&root).ok_or(OpenError::Missing(root))?;
    let page = RawPage::read(root, &bytes)?;
    load_page(&page, &Bounds { lower: &[], upper: None }, fetch)
}

/// The keys that a page may have.
struct Bounds<'a> {
    lower: &'a [u8],
    upper: Option<&'a [u8]>,
}

/// A page with the right digest, and well-formed as far as can be seen within it.
struct RawPage<'a> {
    digest: Digest,
    level: u8,
    bytes: &'a [u8],
    entries: Vec<RawEntry<'a>>,
}

impl<'a> RawPage<'a> {
    fn read(digest: Digest, bytes: &'a [u8]) -> Result<Self, OpenError> {
        if page_digest(bytes) != digest {
            return Err(OpenError::Mismatch(digest));
        }
        Self::parse(digest, bytes).map_err(|reason| OpenError::Malformed { digest, reason })
    }

    fn parse(digest: Digest, bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (&level, mut rest) = bytes.split_first().ok_or("it is empty")?;
        require(level <= MAX_LEVEL, "its level is too high")?;
        require(bytes.len() <= MAX_PAGE, "it is too long")?;
        let mut entries: Vec<RawEntry<'a>> = Vec::new();
        while !rest.is_empty() {
            let (entry, after) =
                read_entry(rest, bytes.len() - rest.len()).ok_or("an entry is cut short")?;
            let ascending = entries.last().is_none_or(|last| last.key < entry.key);
            require(ascending, "its keys are not in ascending order")?;
            check_entry(&entry, level)?;
            entries.push(entry);
            rest = after;
        }
        require(level == 0 || entries.len() > 1, "an inner page has less than two children")?;
        Ok(Self { digest, level, bytes, entries })
    }

    fn require(&self, holds: bool, reason: &'static str) -> Result<(), OpenError> {
        let digest = self.digest;
        require(holds, reason).map_err(|reason| OpenError::Malformed { digest, reason })
    }

    fn check_bounds(&self, bounds: &Bounds<'_>) -> Result<(), OpenError> {
        let (first, last) = (self.entries.first(), self.entries.last());
        let above = if self.level == 0 {
            first.is_none_or(|entry| bounds.lower <= entry.key)
        } else {
            first.is_some_and(|entry| bounds.lower == entry.key)
        };
        let below = last.is_none_or(|entry| bounds.upper.is_none_or(|upper| entry.key < upper));
        self.require(above && below, "it has keys outside the bounds that its parent gives")
    }
}

impl RawEntry<'_> {
    fn reference(&self) -> Option<Reference> {
        match self.payload {
            Payload::Reference(reference) => Some(reference),
            Payload::Inline(_) => None,
        }
    }
}

fn require(holds: bool, reason: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(reason) }
}

fn check_entry(entry: &RawEntry<'_>, level: u8) -> Result<(), &'static str> {
    require(entry.key.len() <= MAX_KEY, "a key is too long")?;
    require(level > 0 || !entry.key.is_empty(), "a key is empty")?;
    match entry.payload {
        Payload::Inline(value) => {
            require(level == 0, "an inner page has a value")?;
            require(value.len() <= MAX_INLINE, "an inline value is too long")
        }
        Payload::Reference(reference) if level == 0 => {
            let long = MAX_INLINE as u64 + 1..=MAX_VALUE as u64;
            require(long.contains(&reference.weight), "the length of a value is out of bounds")
        }
        Payload::Reference(_) => Ok(()),
    }
}

/// The node that this page is, with everything below it, and its number of keys.
fn load_page(
    page: &RawPage<'_>,
    bounds: &Bounds<'_>,
    fetch: &mut Fetch<'_>,
) -> Result<(Arc<Node>, u64), OpenError> {
    page.check_bounds(bounds)?;
    if page.level == 0 {
        let mut load = |entry: &RawEntry<'_>| match entry.reference() {
            Some(reference) if fetch.values => load_value(reference, fetch).map(Some),
            Some(_) | None => Ok(None),
        };
        let links = page.entries.iter().map(&mut load).collect::<Result<Vec<_>, _>>()?;
        let leaf = Leaf::from_parts(page.bytes.to_vec(), &page.entries, links);
        return Ok((Arc::new(Node::Leaf(leaf)), page.entries.len() as u64));
    }

    let mut links = Vec::with_capacity(page.entries.len());
    let mut weight = 0_u64;
    for (at, entry) in page.entries.iter().enumerate() {
        let upper = page.entries.get(at + 1).map_or(bounds.upper, |next| Some(next.key));
        let reference = entry.reference().expect("inner pages have references only");
        let bounds = Bounds { lower: entry.key, upper };
        let child = load_child(reference, page.level - 1, &bounds, fetch)?;
        // Each child's weight was counted, so the sum is that of keys in memory.
        weight += reference.weight;
        links.push(child);
    }
    let inner = Inner::from_parts(page.bytes.to_vec(), &page.entries, links);
    Ok((Arc::new(Node::Inner(inner)), weight))
}

fn load_child(
    reference: Reference,
    level: u8,
    bounds: &Bounds<'_>,
    fetch: &mut Fetch<'_>,
) -> Result<Arc<Node>, OpenError> {
    let bytes = (fetch.block)(&reference.digest).ok_or(OpenError::Missing(reference.digest))?;
    let page = RawPage::read(reference.digest, &bytes)?;
    page.require(page.level == level, "its level is not the one below its parent's")?;
    page.require(bytes.len() >= MIN_PAGE, "it is too short")?;
    let (node, weight) = load_page(&page, bounds, fetch)?;
    page.require(weight == reference.weight, "its number of keys is not what its parent says")?;
    Ok(node)
}

fn load_value(reference: Reference, fetch: &mut Fetch<'_>) -> Result<Arc<Value>, OpenError> {
    let digest = reference.digest;
    let bytes = (fetch.block)(&digest).ok_or(OpenError::Missing(digest))?;
    if bytes.len() as u64 != reference.weight || value_digest(&bytes) != digest {
        return Err(OpenError::Mismatch(digest));
    }
    Ok(Arc::new(Value::Sealed(bytes)))
}
