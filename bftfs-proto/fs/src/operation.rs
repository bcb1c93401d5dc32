//! What clients ask: file-system calls as data.

mod reply;
mod traits;

use alloc::vec::Vec;

use bftfs_proto::types::ClientId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::allocate::Allocation;
use crate::attributes::{FileType, Ino, SetTime};
use crate::locks::Lock;
use crate::registry::Client;
use crate::seek::Sought;

pub use reply::{Entry, Outcome, Reply};

/// Most bytes of one [`Operation::Read`]; asking for more gets this many.
pub const READ_BYTES_MAX: u32 = 1 << 20;
/// Most bytes of one [`Operation::Write`]; more is refused.
pub const WRITE_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one [`Operation::Readdir`]; asking for more gets this many.
pub const READDIR_BYTES_MAX: u32 = 1 << 20;
/// Most bytes of one [`Operation::Copy`]; asking for more gets this many.
pub const COPY_BYTES_MAX: u64 = 1 << 20;
/// Most inodes in one [`Operation::Release`] or [`Operation::Hold`]; more are refused.
pub const RELEASES_MAX: usize = 1024;

/// Bits of an access mask, as of access(2).
pub mod access {
    /// May it be executed, or a directory searched?
    pub const EXECUTE: u8 = 1;
    /// May it be written?
    pub const WRITE: u8 = 2;
    /// May it be read?
    pub const READ: u8 = 4;
}

/// A file-system call. What each returns and why it may be refused is in POSIX and
/// `docs/semantics.md`; any can be refused with [`crate::Errno::EINVAL`] and [`crate::Errno::ESTALE`].
///
/// An operation that moves the time of last access changes something; [`Touch`] says whether it does.
/// `mode` has permission bits, to which the caller's umask is applied already; see [`masked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Nothing, but in order. Gives [`Reply::Done`].
    Null,
    /// What a name in a directory stands for. Gives [`Reply::Attributes`].
    Lookup {
        /// The directory.
        parent: Ino,
        /// The name; neither `.` nor `..`.
        name: Bytes,
    },
    /// Gives [`Reply::Attributes`].
    Getattr {
        /// Of which file.
        ino: Ino,
    },
    /// Whether the caller may do what the bits of [`access`] say. Gives [`Reply::Done`].
    Access {
        /// To which file.
        ino: Ino,
        /// Bits of [`access`]; 0 asks whether it exists.
        mask: u8,
    },
    /// Gives [`Reply::Target`].
    Readlink {
        /// Which symbolic link.
        ino: Ino,
        /// Whether its atime moves.
        touch: Touch,
    },
    /// Reads an open file. Gives [`Reply::Data`], short only at the end of the file.
    Read {
        /// Which file.
        ino: Ino,
        /// From where on.
        offset: u64,
        /// How many bytes, see [`READ_BYTES_MAX`].
        length: u32,
        /// Whether its atime moves, if `length` is not 0.
        touch: Touch,
    },
    /// Lists a directory. Gives [`Reply::Entries`].
    Readdir {
        /// Which directory.
        ino: Ino,
        /// The cookie of the last entry that is known already, or 0.
        cookie: u64,
        /// How many bytes, counted as FUSE lays entries out; see [`READDIR_BYTES_MAX`].
        bytes_max: u32,
        /// Whether attributes are wanted.
        plus: bool,
        /// Whether its atime moves.
        touch: Touch,
    },
    /// Gives [`Reply::Statistics`].
    Statfs,
    /// Checks that a file may be opened so. Gives [`Reply::Attributes`].
    ///
    /// Nothing is kept of an open file: see `keep` in [`Self::Unlink`].
    Open {
        /// Which file or directory.
        ino: Ino,
        /// Bits of [`access`].
        mask: u8,
        /// Whether it is cut to nothing (`O_TRUNC`), which needs the right to write.
        truncate: bool,
    },
    /// Changes attributes, all or none. Gives [`Reply::Attributes`].
    Setattr {
        /// Of which file.
        ino: Ino,
        /// What to change.
        set: SetAttributes,
        /// Whether the file is open for writing, as for ftruncate(2): then its owner may change
        /// the size whatever the mode says.
        open: bool,
    },
    /// Opens a regular file that is made if the name is free. Gives [`Reply::Attributes`].
    ///
    /// An existing file is opened as by [`Self::Open`]. If the name stands for something that is
    /// neither a regular file nor a directory the answer is [`crate::Errno::ESTALE`]: look it up again.
    Create {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// Permission bits of a new file.
        mode: u32,
        /// Whether an existing file is an error (`O_EXCL`).
        exclusive: bool,
        /// Bits of [`access`] that an existing file must grant.
        mask: u8,
        /// Whether an existing file is cut to nothing (`O_TRUNC`).
        truncate: bool,
    },
    /// Makes anything but a directory or a symbolic link. Gives [`Reply::Attributes`].
    Mknod {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// What to make.
        kind: FileType,
        /// Permission bits.
        mode: u32,
        /// Device number, if it is a device.
        rdev: u32,
    },
    /// Makes a directory. Gives [`Reply::Attributes`].
    Mkdir {
        /// The directory to make it in.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a symbolic link. Gives [`Reply::Attributes`].
    Symlink {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// What it points to: 1 to 4095 bytes without NUL.
        target: Bytes,
    },
    /// Gives a file one more name. Gives [`Reply::Attributes`].
    Link {
        /// The file, not a directory.
        ino: Ino,
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
    },
    /// Removes the name of anything but a directory. Gives [`Reply::Removed`].
    Unlink {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// Whether the file, if this was its last name, is kept until the session releases it
        /// or ends: for files that are still open.
        keep: bool,
    },
    /// Removes an empty directory. Gives [`Reply::Removed`].
    Rmdir {
        /// The directory that it is in.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// As in [`Self::Unlink`].
        keep: bool,
    },
    /// Moves a name. Gives [`Reply::Removed`].
    Rename {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// The directory to move to.
        new_parent: Ino,
        /// The name there.
        new_name: Bytes,
        /// What if that name exists.
        mode: RenameMode,
        /// As in [`Self::Unlink`], for what is replaced.
        keep: bool,
    },
    /// Writes an open file, all or nothing. Gives [`Reply::Written`].
    Write {
        /// Which file.
        ino: Ino,
        /// From where on.
        offset: u64,
        /// Whether to write at the end of the file instead (`O_APPEND`).
        append: bool,
        /// At most [`WRITE_BYTES_MAX`] bytes.
        #[serde(skip)]
        data: Bytes,
    },
    /// Lets go of unlinked files that this session kept. Others are ignored. Gives
    /// [`Reply::Done`].
    Release {
        /// At most [`RELEASES_MAX`].
        inos: Vec<Ino>,
    },
    /// Gives an extended attribute a value. Gives [`Reply::Done`].
    Setxattr {
        /// Of which file.
        ino: Ino,
        /// The attribute's name, with its namespace: 1 to 255 bytes without NUL.
        name: Bytes,
        /// At most 64 KiB.
        value: Bytes,
        /// What if it exists.
        mode: XattrMode,
    },
    /// The value of an extended attribute. Gives [`Reply::Data`].
    Getxattr {
        /// Of which file.
        ino: Ino,
        /// The attribute's name.
        name: Bytes,
    },
    /// The names of all extended attributes that the caller may know of, each with a NUL behind
    /// it. Gives [`Reply::Data`].
    Listxattr {
        /// Of which file.
        ino: Ino,
    },
    /// Removes an extended attribute. Gives [`Reply::Done`].
    Removexattr {
        /// Of which file.
        ino: Ino,
        /// The attribute's name.
        name: Bytes,
    },
    /// Searches an open file for data or a hole (lseek(2)). Gives [`Reply::Found`], or
    /// [`Reply::Reached`] if the search goes on from there; [`crate::Errno::ENXIO`] if there is none.
    Seek {
        /// Which file.
        ino: Ino,
        /// From where on.
        offset: u64,
        /// What for.
        sought: Sought,
    },
    /// Changes which bytes of an open file are holes (fallocate(2)). Gives [`Reply::Done`], or
    /// [`Reply::Reached`] if the rest from there on is still to be done.
    Allocate {
        /// Which file.
        ino: Ino,
        /// From where on.
        offset: u64,
        /// How many bytes, not 0.
        length: u64,
        /// What becomes of them.
        how: Allocation,
    },
    /// Copies contents of an open file to another, or within one (copy_file_range(2)). What was a
    /// hole is one. Gives [`Reply::Written`] with how many bytes were copied, fewer at the end of
    /// the file and of what one operation does.
    Copy {
        /// Where to read.
        ino: Ino,
        /// From where on.
        offset: u64,
        /// Where to write.
        target: Ino,
        /// From where on.
        target_offset: u64,
        /// How many bytes, see [`COPY_BYTES_MAX`].
        length: u64,
        /// Whether the atime of the file that is read moves, if anything is.
        touch: Touch,
    },
    /// Takes, changes or gives up a lock of a regular file. Gives [`Reply::Locked`], or, if one
    /// waits for it, [`Reply::Waiting`]: then asking the same again tells whether it is granted.
    SetLock {
        /// Of which file.
        ino: Ino,
        /// What the owner is to have in this range from now on.
        lock: Lock,
        /// Whether to wait for those in the way; otherwise they are an error.
        wait: bool,
    },
    /// Which lock of another owner is in the way of this one. Gives [`Reply::Conflict`].
    GetLock {
        /// Of which file.
        ino: Ino,
        /// What would be asked for. For [`crate::LockKind::Unlock`], the first that would go.
        lock: Lock,
    },
    /// Stops waiting for a lock. Gives [`Reply::Done`], or [`Reply::Locked`] if it was granted.
    CancelLock {
        /// Of which file.
        ino: Ino,
        /// What was asked for.
        lock: Lock,
    },
    /// Gives up all locks of an owner on a file, also those that it waits for. Gives
    /// [`Reply::Done`].
    ReleaseLocks {
        /// Of which file.
        ino: Ino,
        /// Whose, in this session.
        owner: u64,
    },
    /// Says what a client may do, and which key it has; for administrators. Gives
    /// [`Reply::Done`], or [`crate::Errno::EBUSY`] while it cannot yet be told where files lie: then it is
    /// to be asked again until it can.
    SetClient {
        /// Which client. It need not be known yet.
        client: ClientId,
        /// What becomes known of it.
        record: Client,
    },
    /// Takes all access from a client, at once; for administrators. Gives [`Reply::Done`].
    RevokeClient {
        /// Which client.
        client: ClientId,
    },
    /// The clients that administrators spoke of; for administrators. Gives [`Reply::Clients`].
    ListClients {
        /// The last client that is known already.
        after: Option<ClientId>,
    },
    /// From now on, until it ends, this session is to hear of files that lose their last name.
    /// None of them is gone before it was, unless it takes longer than a session may go unused.
    /// Gives [`Reply::Unlinked`]. To be asked again from time to time.
    Attend {
        /// The number up to which the session has heard, and holds what it has open.
        seen: u64,
    },
    /// Keeps files without names for this session until it releases them or ends. Gives
    /// [`Reply::Held`].
    Hold {
        /// At most [`RELEASES_MAX`].
        inos: Vec<Ino>,
    },
}

/// Where a `mode` keeps what the umask took from it.
const MASKED_SHIFT: u32 = 16;

/// The `mode` with which an operation makes a file: without what the umask takes, which stands
/// apart in bits that were ignored once. A directory that has a default ACL gives it back.
#[must_use]
pub const fn masked(mode: u32, umask: u32) -> u32 {
    let taken = mode & umask & 0o777;
    (mode & 0o177_777 & !taken) | taken << MASKED_SHIFT
}

/// The same as if there were no umask.
pub(crate) const fn unmasked(mode: u32) -> u32 {
    mode | mode >> MASKED_SHIFT & 0o777
}

/// What setting an extended attribute does about one that exists (setxattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// It replaces it.
    Set,
    /// It fails.
    Create,
    /// It replaces it, and fails if there is none.
    Replace,
}

/// Whether reading moves the time of last access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Touch {
    /// It does not (`noatime`).
    Never,
    /// It does (`strictatime`).
    Always,
    /// Only if the file was not read since it changed, or not for 24 hours of agreed time: then
    /// as in [`Self::Always`], otherwise as in [`Self::Never`] (`relatime`).
    Relative,
}

/// What a rename does about a name that exists (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// It replaces it.
    Replace,
    /// It fails.
    NoReplace,
    /// The two change places; both must exist.
    Exchange,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size of a regular file, in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change.
    pub mtime: Option<SetTime>,
}
