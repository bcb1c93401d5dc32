//! The replicated state as data: a copy-on-write Merkle tree of keys and values.
//!
//! Everything that four correct replicas must agree on is in such a tree, so its root digest is the
//! digest of a checkpoint, an old root is a snapshot, and the blocks below a root, each named by its
//! hash, are what is written to disk and what state transfer fetches.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod digest;
mod source;
mod tree;

pub use digest::Digest;
pub use source::{Found, Source};
pub use tree::{
    Block, Blocks, Children, Entry, MAX_KEY, MAX_VALUE, OpenError, Part, Parts, Range, Sealed,
    Snapshot, Tree, block_children, is_block,
};
