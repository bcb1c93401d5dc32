//! The file service: POSIX operations as a deterministic function over the replicated state.
//!
//! A client encodes a [`Call`] and has it ordered, or asks it of all replicas if it changes
//! nothing; an [`Outcome`] comes back. [`FileSystem`] is the function between the two.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod acl;
mod allocate;
mod attendance;
mod attributes;
mod call;
mod check;
mod copy;
mod data;
mod directory;
mod errno;
mod garbage;
mod index;
mod inode;
mod layout;
mod locks;
mod names;
mod operation;
mod permissions;
pub mod registry;
mod rename;
mod rules;
mod seek;
mod service;
mod xattr;

pub use allocate::Allocation;
pub use attributes::{Attributes, FileType, Ino, ROOT, SetTime, Statistics, Time};
pub use call::{Call, Credentials, GROUPS_MAX, Malformed, decode_outcome, encode_outcome};
pub use check::{Damage, check};
pub use errno::Errno;
pub use locks::{
    FILE_LOCKS_MAX, Lock, LockKind, SESSION_LOCKS_MAX, SESSION_WAITS_MAX, nudged_file,
};
pub use operation::{
    COPY_BYTES_MAX, Entry, Operation, Outcome, READ_BYTES_MAX, READDIR_BYTES_MAX, RELEASES_MAX,
    RenameMode, Reply, SetAttributes, Touch, WRITE_BYTES_MAX, XattrMode, access, masked,
};
pub use registry::Client;
pub use rules::{IdRange, RANGES_MAX, Rule};
pub use seek::Sought;
pub use service::FileSystem;
