//! Nodes and values in memory: finding, changing, splitting, merging and sealing them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use bytes::Bytes;

use super::Block;
use super::page::{MAX_INLINE, MAX_PAGE, MAX_VALUE, MIN_PAGE, Page, Payload, Reference};
use crate::{Digest, Source};

/// Keys and their values; an entry links to its value where that is too long for the page and in
/// memory.
pub(super) type Leaf = Page<Option<Arc<Value>>>;
/// The lower bounds of subtrees; the first one is the bound of the whole page.
pub(super) type Inner = Page<Arc<Node>>;

// One key per kind of block, so that no block can be taken for one of another kind.
const PAGE_KEY: &[u8; 32] = b"bftfs state tree: page, format 1";
const VALUE_KEY: &[u8; 32] = b"bftfs state tree: value format 1";

/// The digest of a page with this encoding.
pub(super) fn page_digest(bytes: &[u8]) -> Digest {
    Digest(*blake3::keyed_hash(PAGE_KEY, bytes).as_bytes())
}

/// The digest of a value that is a block of its own.
pub(super) fn value_digest(bytes: &[u8]) -> Digest {
    Digest(*blake3::keyed_hash(VALUE_KEY, bytes).as_bytes())
}

/// A value that is a block of its own.
#[derive(Clone)]
pub(super) enum Value {
    /// Changed since it was last sealed, if ever.
    Open(Vec<u8>),
    /// As it was sealed; the bytes are shared with whoever stores the block.
    Sealed(Bytes),
}

impl Value {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Open(bytes) => bytes,
            Self::Sealed(bytes) => bytes,
        }
    }

    /// The bytes to change; copies them if they are sealed and shared.
    fn open(&mut self) -> &mut Vec<u8> {
        if let Self::Sealed(bytes) = self {
            *self = Self::Open(mem::take(bytes).into());
        }
        match self {
            Self::Open(bytes) => bytes,
            Self::Sealed(_) => unreachable!("opened above"),
        }
    }

    /// The bytes as a block holds them.
    pub(super) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Open(bytes) => Bytes::copy_from_slice(bytes),
            Self::Sealed(bytes) => bytes.clone(),
        }
    }

    fn seal(&mut self) -> Bytes {
        if let Self::Open(bytes) = self {
            bytes.shrink_to_fit();
            *self = Self::Sealed(mem::take(bytes).into());
        }
        self.to_bytes()
    }
}

/// A node of the tree. All nodes but the root are within [`MIN_PAGE`] and [`MAX_PAGE`].
#[derive(Clone)]
pub(super) enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

impl Node {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Leaf(page) => page.bytes(),
            Self::Inner(page) => page.bytes(),
        }
    }

    /// The leaf that has `key`, and where.
    pub(super) fn find(&self, key: &[u8]) -> Option<(&Leaf, usize)> {
        let mut node = self;
        loop {
            match node {
                Self::Inner(page) => node = page.link(page.child_of(key)),
                Self::Leaf(page) => return page.search(key).ok().map(|at| (page, at)),
            }
        }
    }

    /// Calls `change` with the leaf where `key` is or belongs, then restores the sizes above it.
    /// The digests of sealed blocks that are no longer part of the tree go to `freed`.
    pub(super) fn edit<F, T>(&mut self, key: &[u8], freed: &mut Vec<Digest>, change: F) -> T
    where
        F: FnOnce(&mut Leaf, Result<usize, usize>, &mut Vec<Digest>) -> T,
    {
        match self {
            Self::Leaf(page) => {
                let at = page.search(key);
                change(page, at, freed)
            }
            Self::Inner(page) => {
                let at = page.child_of(key);
                let result = page.child_mut(at, freed).edit(key, freed, change);
                page.settle(at, freed);
                result
            }
        }
    }

    /// Splits off the upper half and names the least key that may be in it.
    fn split(&mut self) -> (Vec<u8>, Self) {
        match self {
            Self::Leaf(page) => {
                let right = page.split();
                (separator(page.key(page.len() - 1), right.key(0)), Self::Leaf(right))
            }
            Self::Inner(page) => {
                let right = page.split();
                (right.key(0).to_vec(), Self::Inner(right))
            }
        }
    }

    fn absorb(&mut self, right: Self) {
        match (self, right) {
            (Self::Leaf(page), Self::Leaf(right)) => page.absorb(right),
            (Self::Inner(page), Self::Inner(right)) => page.absorb(right),
            _ => unreachable!("neighbours are of one level"),
        }
    }

    /// Puts a root above this one if it is too long, or its only child in its place.
    pub(super) fn settle_root(this: &mut Arc<Self>) {
        let dirty = Payload::Reference(Reference::DIRTY);
        if this.bytes().len() > MAX_PAGE {
            let mut root = Inner::new(this.bytes()[0] + 1);
            let (separator, right) = Arc::make_mut(this).split();
            root.insert(0, &[], dirty, this.clone());
            root.insert(1, &separator, dirty, Arc::new(right));
            *this = Arc::new(Self::Inner(root));
        } else if let Self::Inner(page) = &**this
            && page.len() == 1
        {
            assert_eq!(page.child_reference(0), Reference::DIRTY, "the only child was just merged");
            *this = page.link(0).clone();
        }
    }

    /// Seals whatever changed at and below this node, children before parents.
    /// Values then leave the tree for the source, if it has one.
    pub(super) fn seal(
        this: &mut Arc<Self>,
        source: Option<&dyn Source>,
        added: &mut Vec<Block>,
    ) -> Reference {
        let node = Arc::make_mut(this);
        let weight = match node {
            Self::Leaf(page) => page.seal_values(source, added),
            Self::Inner(page) => page.seal_children(source, added),
        };
        let bytes = Bytes::copy_from_slice(node.bytes());
        let digest = page_digest(&bytes);
        added.push(Block { digest, bytes });
        Reference { digest, weight }
    }

    /// The reference to this node, with every digest below it computed anew.
    pub(super) fn reference_from_scratch(&self) -> Reference {
        match self {
            Self::Leaf(page) => page.reference_from_scratch(),
            Self::Inner(page) => page.reference_from_scratch(),
        }
    }
}

impl Leaf {
    /// The value at `at`, or the block that it is, if that is not in memory.
    pub(super) fn value(&self, at: usize) -> Result<&[u8], Reference> {
        match (self.link(at), self.reference(at)) {
            (Some(value), _) => Ok(value.bytes()),
            (None, Some(reference)) => Err(reference),
            (None, None) => Ok(self.payload(at)),
        }
    }

    /// Sets the value of `key`, which is or belongs at `at`.
    pub(super) fn put(
        &mut self,
        at: Result<usize, usize>,
        key: &[u8],
        value: Vec<u8>,
        freed: &mut Vec<Digest>,
    ) {
        check_value(&value);
        match at {
            Ok(at) => {
                free(self.reference(at), freed);
                self.set(at, value);
            }
            Err(at) if value.len() <= MAX_INLINE => {
                self.insert(at, key, Payload::Inline(&value), None);
            }
            Err(at) => {
                let link = Some(Arc::new(Value::Open(value)));
                self.insert(at, key, Payload::Reference(Reference::DIRTY), link);
            }
        }
    }

    /// Changes the value at `at` in place, without a copy if it is long, unsealed and not shared.
    /// One that is not in memory is had from `fetch`.
    pub(super) fn modify(
        &mut self,
        at: usize,
        freed: &mut Vec<Digest>,
        fetch: impl FnOnce(&Digest) -> Bytes,
        change: impl FnOnce(&mut Vec<u8>),
    ) {
        free(self.reference(at), freed);
        if let Err(reference) = self.value(at) {
            let value = Value::Open(fetch(&reference.digest).into());
            *self.link_mut(at) = Some(Arc::new(value));
        }
        let Some(link) = self.link_mut(at) else {
            let mut value = self.payload(at).to_vec();
            change(&mut value);
            check_value(&value);
            return self.set(at, value);
        };
        let value = Arc::make_mut(link).open();
        change(value);
        check_value(value);
        if value.len() <= MAX_INLINE {
            let value = mem::take(value);
            self.set(at, value);
        } else {
            self.set_payload(at, Payload::Reference(Reference::DIRTY));
        }
    }

    /// Removes the entry at `at`.
    pub(super) fn take(&mut self, at: usize, freed: &mut Vec<Digest>) {
        let (reference, _) = self.remove(at);
        free(reference, freed);
    }

    fn set(&mut self, at: usize, value: Vec<u8>) {
        if value.len() <= MAX_INLINE {
            self.set_payload(at, Payload::Inline(&value));
            *self.link_mut(at) = None;
        } else {
            self.set_payload(at, Payload::Reference(Reference::DIRTY));
            *self.link_mut(at) = Some(Arc::new(Value::Open(value)));
        }
    }

    fn seal_values(&mut self, source: Option<&dyn Source>, added: &mut Vec<Block>) -> u64 {
        for at in 0..self.len() {
            if self.reference(at) != Some(Reference::DIRTY) {
                continue;
            }
            let link = self.link_mut(at).as_mut().expect("a reference has its link");
            let bytes = Arc::make_mut(link).seal();
            let digest = value_digest(&bytes);
            let reference = Reference { digest, weight: bytes.len() as u64 };
            self.set_payload(at, Payload::Reference(reference));
            let block = Block { digest, bytes };
            if let Some(source) = source {
                source.keep(&block);
                *self.link_mut(at) = None;
            }
            added.push(block);
        }
        self.len() as u64
    }

    fn reference_from_scratch(&self) -> Reference {
        let mut page = self.clone();
        for at in 0..page.len() {
            if let Some(value) = self.link(at) {
                let digest = value_digest(value.bytes());
                let reference = Reference { digest, weight: value.bytes().len() as u64 };
                page.set_payload(at, Payload::Reference(reference));
            }
        }
        Reference { digest: page_digest(page.bytes()), weight: page.len() as u64 }
    }
}

impl Inner {
    /// The position of the child whose keys may include `key`.
    pub(super) fn child_of(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|above| above.saturating_sub(1))
    }

    /// What this page says of the child at `at`.
    pub(super) fn child_reference(&self, at: usize) -> Reference {
        self.reference(at).expect("every entry of an inner page is a reference")
    }

    /// The child at `at`, to be changed.
    fn child_mut(&mut self, at: usize, freed: &mut Vec<Digest>) -> &mut Node {
        let reference = self.child_reference(at);
        if reference != Reference::DIRTY {
            free(Some(reference), freed);
            self.set_payload(at, Payload::Reference(Reference::DIRTY));
        }
        Arc::make_mut(self.link_mut(at))
    }

    /// Splits or merges the child at `at` if its size is out of bounds.
    fn settle(&mut self, at: usize, freed: &mut Vec<Digest>) {
        let size = self.link(at).bytes().len();
        if size > MAX_PAGE {
            self.split_child(at, freed);
        } else if size < MIN_PAGE && self.len() > 1 {
            let left = at.saturating_sub(1);
            self.merge_children(left, freed);
            if self.link(left).bytes().len() > MAX_PAGE {
                self.split_child(left, freed);
            }
        }
    }

    fn split_child(&mut self, at: usize, freed: &mut Vec<Digest>) {
        let (separator, right) = self.child_mut(at, freed).split();
        let reference = Payload::Reference(Reference::DIRTY);
        self.insert(at + 1, &separator, reference, Arc::new(right));
    }

    /// Moves everything from the child after `at` to the one at `at`.
    fn merge_children(&mut self, at: usize, freed: &mut Vec<Digest>) {
        let (reference, right) = self.remove(at + 1);
        free(reference, freed);
        self.child_mut(at, freed).absorb(Arc::unwrap_or_clone(right));
    }

    fn seal_children(&mut self, source: Option<&dyn Source>, added: &mut Vec<Block>) -> u64 {
        let mut weight = 0;
        for at in 0..self.len() {
            let mut reference = self.child_reference(at);
            if reference == Reference::DIRTY {
                reference = Node::seal(self.link_mut(at), source, added);
                self.set_payload(at, Payload::Reference(reference));
            }
            weight += reference.weight;
        }
        weight
    }

    fn reference_from_scratch(&self) -> Reference {
        let mut page = self.clone();
        let mut weight = 0;
        for at in 0..page.len() {
            let reference = self.link(at).reference_from_scratch();
            page.set_payload(at, Payload::Reference(reference));
            weight += reference.weight;
        }
        Reference { digest: page_digest(page.bytes()), weight }
    }
}

/// Notes a block that is no longer part of the tree, if it ever was sealed.
fn free(reference: Option<Reference>, freed: &mut Vec<Digest>) {
    if let Some(reference) = reference
        && reference != Reference::DIRTY
    {
        freed.push(reference.digest);
    }
}

fn check_value(value: &[u8]) {
    assert!(value.len() <= MAX_VALUE, "a value of {} bytes is over the limit", value.len());
}

/// The shortest key that is above `left` and not above `right`.
fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    right[..=common].to_vec()
}
