//! The tables of the replicated tree: their keys and records.
//!
//! A key is a byte that names the table and then numbers, big-endian so that they sort; a record
//! is postcard unless said otherwise.
//!
//! ```text
//! table       key                   record
//! superblock  1                     Superblock
//! inode       2 ino                 Inode
//! dentry      3 directory name      Dentry: what the name stands for, and its cookie
//! slot        4 directory cookie    Slot: the same found by its cookie, with the name
//! block       5 fork index          raw contents, 1 to 32 KiB
//! target      6 ino                 raw target of a symbolic link
//! orphan      7 session ino         nothing: the session keeps a file without names
//! garbage     8 kind number         nothing: what is to be removed bit by bit
//! xattr       9 ino name            raw value of an extended attribute
//! locks       10 ino                FileLocks: locks of the file, and who waits for them
//! session     11 session            SessionLocks: how many it has, and where it waits
//!             11 session ino        nothing: the session has locks or waits on that file
//! registry    12                    Registry: how many clients have a record
//! client      12 client             Client
//! index       13                    raw key: names of files below it are in the index of names
//! named       13 ino dir cookie     nothing: a file that is no directory has a name there
//! attendance  14                    Attendance: how many sessions attend, and their clock
//! attendant   14 session            Attendant: a session, and how far it has heard
//! limbo       15 number             Limbo: a file without names that sessions may have open
//! unnamed     16 ino                Unnamed: how often a file is kept that is or was in limbo
//! ```
//! A fork is the contents of a file. It starts with the file's own number and gets a new one when
//! a big file is cut, so that the old blocks can be removed later. Bytes that no block holds are
//! zeros, be it that the block is missing or that it is short; no block reaches beyond the size.
//!
//! Cookies count up in each directory and are never used again, so a reader of a directory finds
//! its place whatever changed. 1 and 2 stand for `.` and `..`, which have no slot.
//!
//! The quota counts what a client can make grow: contents as blocks hold them, targets, values of
//! attributes, and for each name, of a file or an attribute, its bytes and [`ENTRY_BYTES`].
//!
//! ACLs are attributes, sorted as `acl.rs` says. The permission bits always say what the ACL does.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use bftfs_proto::types::{ClientId, SessionId};
use bftfs_state::Tree;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::attributes::{Attributes, FileType, Ino, Time};

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 32 << 10;
/// Longest name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes (PATH_MAX without the NUL).
pub(crate) const TARGET_BYTES_MAX: usize = 4095;
/// Most names of a file that is no directory, as on ext4.
pub(crate) const LINKS_MAX: u32 = 65_000;
/// Greatest size of a file, in bytes.
pub(crate) const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Bytes that a name takes of the quota besides its own.
pub(crate) const ENTRY_BYTES: u64 = 64;
/// Blocks and attributes that one operation removes at most, with one exception: see `Change::cut`.
pub(crate) const REMOVED_BLOCKS_MAX: usize = 256;

/// The cookie of `.`.
pub(crate) const COOKIE_SELF: u64 = 1;
/// The cookie of `..`.
pub(crate) const COOKIE_PARENT: u64 = 2;
/// The first cookie of a name.
pub(crate) const COOKIE_FIRST: u64 = 3;

/// The bits that tell the tables apart.
pub(crate) mod table {
    pub(crate) const SUPERBLOCK: u8 = 1;
    pub(crate) const INODE: u8 = 2;
    pub(crate) const DENTRY: u8 = 3;
    pub(crate) const SLOT: u8 = 4;
    pub(crate) const BLOCK: u8 = 5;
    pub(crate) const TARGET: u8 = 6;
    pub(crate) const ORPHAN: u8 = 7;
    pub(crate) const GARBAGE: u8 = 8;
    pub(crate) const XATTR: u8 = 9;
    pub(crate) const LOCKS: u8 = 10;
    pub(crate) const SESSION_LOCKS: u8 = 11;
    pub(crate) const CLIENT: u8 = 12;
    pub(crate) const INDEX: u8 = 13;
    pub(crate) const ATTENDANCE: u8 = 14;
    pub(crate) const LIMBO: u8 = 15;
    pub(crate) const UNNAMED: u8 = 16;
}

/// The sessions that hold anything: files without names, locks, or others' patience.
pub(crate) fn sessions(tree: &Tree) -> BTreeSet<SessionId> {
    let tables = [table::ORPHAN, table::SESSION_LOCKS, table::ATTENDANCE];
    let keys = tables.into_iter().flat_map(|table| {
        // A key without a session's number is the table's own.
        tree.prefix(&[table]).filter_map(|(key, _)| number_of(key.get(..9)?))
    });
    keys.map(SessionId).collect()
}

/// Bits of an inode's mode that nobody is shown: which of the attributes that rules ask about it
/// has. A file without them pays for a look at its mode and no more.
pub(crate) mod mark {
    pub(crate) const ACCESS_ACL: u16 = 0o010_000;
    pub(crate) const DEFAULT_ACL: u16 = 0o020_000;
    pub(crate) const CAPABILITY: u16 = 0o040_000;
    pub(crate) const ALL: u16 = ACCESS_ACL | DEFAULT_ACL | CAPABILITY;
}

/// What the file system is as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Superblock {
    /// Bytes that may be used.
    pub(crate) capacity_bytes: u64,
    /// Inodes that may exist.
    pub(crate) capacity_inodes: u64,
    /// The sum of all inodes' `held`.
    pub(crate) used_bytes: u64,
    /// Inodes that exist.
    pub(crate) used_inodes: u64,
    /// The next inode or fork gets this number.
    pub(crate) next_number: u64,
}

/// A file of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inode {
    pub(crate) kind: FileType,
    /// Permission bits, at most `0o7777`, and bits of [`mark`].
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) rdev: u32,
    /// Bytes of contents or target; entries of a directory.
    pub(crate) size: u64,
    /// Bytes that it takes of the quota.
    pub(crate) held: u64,
    /// A regular file's contents; otherwise 0.
    pub(crate) fork: u64,
    /// A directory's parent; the root and a directory without name are their own. Otherwise 0.
    pub(crate) parent: Ino,
    /// A directory's next cookie; otherwise 0.
    pub(crate) next_cookie: u64,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    pub(crate) btime: Time,
}

impl Inode {
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(crate) fn attributes(&self, ino: Ino) -> Attributes {
        Attributes {
            ino,
            kind: self.kind,
            mode: self.mode & !mark::ALL,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            blocks: self.held.div_ceil(512),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
        }
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dentry {
    pub(crate) ino: Ino,
    pub(crate) kind: FileType,
    pub(crate) cookie: u64,
}

/// A name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) ino: Ino,
    pub(crate) kind: FileType,
    pub(crate) name: Bytes,
}

/// What waits to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Garbage {
    /// The blocks of a fork that no file has.
    Fork(u64),
    /// The orphans and locks of a session that is closed.
    Session(SessionId),
    /// The attributes of an inode that is gone.
    Xattrs(Ino),
}

impl Garbage {
    const FORK: u8 = 0;
    const SESSION: u8 = 1;
    const XATTRS: u8 = 2;

    pub(crate) fn key(self) -> [u8; 10] {
        let (kind, number) = match self {
            Self::Fork(fork) => (Self::FORK, fork),
            Self::Session(session) => (Self::SESSION, session.0),
            Self::Xattrs(ino) => (Self::XATTRS, ino.0),
        };
        let mut key = [table::GARBAGE; 10];
        key[1] = kind;
        key[2..].copy_from_slice(&number.to_be_bytes());
        key
    }

    pub(crate) fn from_key(key: &[u8]) -> Option<Self> {
        let (&[table::GARBAGE, kind], number) = key.split_first_chunk::<2>()? else { return None };
        let number = u64::from_be_bytes(number.try_into().ok()?);
        match kind {
            Self::FORK => Some(Self::Fork(number)),
            Self::SESSION => Some(Self::Session(SessionId(number))),
            Self::XATTRS => Some(Self::Xattrs(Ino(number))),
            _ => None,
        }
    }

    /// What the keys start with that go.
    pub(crate) fn prefix(self) -> [u8; 9] {
        match self {
            Self::Fork(fork) => one(table::BLOCK, fork),
            Self::Session(session) => orphans_key(session),
            Self::Xattrs(ino) => xattrs_key(ino),
        }
    }
}

fn one(table: u8, number: u64) -> [u8; 9] {
    let mut key = [table; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn two(table: u8, first: u64, second: u64) -> [u8; 17] {
    let mut key = [table; 17];
    key[1..9].copy_from_slice(&first.to_be_bytes());
    key[9..].copy_from_slice(&second.to_be_bytes());
    key
}

fn named(table: u8, ino: Ino, name: &[u8]) -> Vec<u8> {
    [&one(table, ino.0), name].concat()
}

/// Splits a key of an inode and a name.
pub(crate) fn split_named(key: &[u8]) -> Option<(Ino, &[u8])> {
    let (_, rest) = key.split_first()?;
    let (ino, name) = rest.split_first_chunk::<8>()?;
    Some((Ino(u64::from_be_bytes(*ino)), name))
}

pub(crate) const SUPERBLOCK_KEY: &[u8] = &[table::SUPERBLOCK];

pub(crate) fn inode_key(ino: Ino) -> [u8; 9] {
    one(table::INODE, ino.0)
}

pub(crate) fn dentry_key(directory: Ino, name: &[u8]) -> Vec<u8> {
    named(table::DENTRY, directory, name)
}

pub(crate) fn slot_key(directory: Ino, cookie: u64) -> [u8; 17] {
    two(table::SLOT, directory.0, cookie)
}

pub(crate) fn block_key(fork: u64, index: u64) -> [u8; 17] {
    two(table::BLOCK, fork, index)
}

pub(crate) fn target_key(ino: Ino) -> [u8; 9] {
    one(table::TARGET, ino.0)
}

pub(crate) fn orphan_key(session: SessionId, ino: Ino) -> [u8; 17] {
    two(table::ORPHAN, session.0, ino.0)
}

/// Below it are all orphans of a session.
pub(crate) fn orphans_key(session: SessionId) -> [u8; 9] {
    one(table::ORPHAN, session.0)
}

/// Below it are all attributes of an inode.
pub(crate) fn xattrs_key(ino: Ino) -> [u8; 9] {
    one(table::XATTR, ino.0)
}

pub(crate) fn xattr_key(ino: Ino, name: &[u8]) -> Vec<u8> {
    named(table::XATTR, ino, name)
}

pub(crate) fn locks_key(ino: Ino) -> [u8; 9] {
    one(table::LOCKS, ino.0)
}

/// Below it are all files that the session has locked.
pub(crate) fn session_locks_key(session: SessionId) -> [u8; 9] {
    one(table::SESSION_LOCKS, session.0)
}

pub(crate) fn locked_key(session: SessionId, ino: Ino) -> [u8; 17] {
    two(table::SESSION_LOCKS, session.0, ino.0)
}

/// Who attends, as a whole.
pub(crate) const ATTENDANCE_KEY: &[u8] = &[table::ATTENDANCE];

pub(crate) fn attendant_key(session: SessionId) -> [u8; 9] {
    one(table::ATTENDANCE, session.0)
}

pub(crate) fn limbo_key(number: u64) -> [u8; 9] {
    one(table::LIMBO, number)
}

pub(crate) fn unnamed_key(ino: Ino) -> [u8; 9] {
    one(table::UNNAMED, ino.0)
}

/// The number of a key of one number.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

/// The registry of clients as a whole.
pub(crate) const REGISTRY_KEY: &[u8] = &[table::CLIENT];
/// How far the index of names is built.
pub(crate) const INDEX_KEY: &[u8] = &[table::INDEX];

pub(crate) fn client_key(client: ClientId) -> [u8; 5] {
    let mut key = [table::CLIENT; 5];
    key[1..].copy_from_slice(&client.0.to_be_bytes());
    key
}

/// Whose record is under a key.
pub(crate) fn client_of(key: &[u8]) -> Option<ClientId> {
    Some(ClientId(u32::from_be_bytes(key.get(1..)?.try_into().ok()?)))
}

pub(crate) fn named_key(ino: Ino, directory: Ino, cookie: u64) -> [u8; 25] {
    let mut key = [table::INDEX; 25];
    key[1..9].copy_from_slice(&ino.0.to_be_bytes());
    key[9..17].copy_from_slice(&directory.0.to_be_bytes());
    key[17..].copy_from_slice(&cookie.to_be_bytes());
    key
}

/// The file, directory and cookie of a key of the index.
pub(crate) fn split_indexed(key: &[u8]) -> Option<(Ino, Ino, u64)> {
    let (head, cookie) = key.split_last_chunk::<8>()?;
    let (ino, directory) = split_two(head)?;
    Some((Ino(ino), Ino(directory), u64::from_be_bytes(*cookie)))
}

/// The directory of a name's key.
pub(crate) fn directory_of(key: &[u8]) -> Option<Ino> {
    let (directory, _) = key.get(1..)?.split_first_chunk::<8>()?;
    Some(Ino(u64::from_be_bytes(*directory)))
}

/// Splits a key of two numbers.
pub(crate) fn split_two(key: &[u8]) -> Option<(u64, u64)> {
    let (_, numbers) = key.split_first()?;
    let (first, second) = numbers.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*first), u64::from_be_bytes(second.try_into().ok()?)))
}

/// Reads a record of the tree, which nobody but this crate writes.
pub(crate) fn load<T: DeserializeOwned>(tree: &Tree, key: &[u8]) -> Option<T> {
    let bytes = tree.get(key)?;
    Some(postcard::from_bytes(&bytes).expect("records are as they were written"))
}

/// Reads a record that may be long, so that the store has it. If it is damaged there the tree gives
/// nothing for it, and whatever is computed from that is worth nothing: any record will do.
pub(crate) fn load_long<T: DeserializeOwned + Default>(tree: &Tree, key: &[u8]) -> T {
    match tree.get(key) {
        Some(bytes) if !bytes.is_empty() => {
            postcard::from_bytes(&bytes).expect("records are as they were written")
        }
        _ => T::default(),
    }
}

/// Writes a record.
pub(crate) fn store<T: Serialize>(tree: &mut Tree, key: &[u8], record: &T) {
    let bytes = postcard::to_allocvec(record).expect("records serialise into memory");
    tree.insert(key, bytes);
}

/// The index of the block that has the byte at `offset`, and the byte's place in it.
#[expect(clippy::cast_possible_truncation, reason = "a place in a block is small")]
pub(crate) fn place(offset: u64) -> (u64, usize) {
    let block = BLOCK_BYTES as u64;
    (offset / block, (offset % block) as usize)
}
