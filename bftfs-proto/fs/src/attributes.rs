//! What a file has besides its contents.

use core::fmt;

use bftfs_proto::types::Wall;
use serde::{Deserialize, Serialize};

/// An inode number. Counted up from [`ROOT`] and never used again, so it needs no generation.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Ino(pub u64);

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The root directory.
pub const ROOT: Ino = Ino(1);

/// What kind of file an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A moment since the epoch; before it, `sec` is negative and `nsec` still counts forward.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time {
    /// Whole seconds.
    pub sec: i64,
    /// Nanoseconds within the second, less than 1 000 000 000.
    pub nsec: u32,
}

impl From<Wall> for Time {
    fn from(wall: Wall) -> Self {
        const SECOND: u64 = 1_000_000_000;
        let sec = i64::try_from(wall.0 / SECOND).expect("a quotient by a billion is small");
        let nsec = u32::try_from(wall.0 % SECOND).expect("a remainder by a billion is small");
        Self { sec, nsec }
    }
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The agreed time of the operation.
    Now,
    /// This one.
    At(Time),
}

/// What stat(2) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The inode's number.
    pub ino: Ino,
    /// What kind of file it is.
    pub kind: FileType,
    /// Permission bits with set-user-ID, set-group-ID and sticky: at most `0o7777`.
    pub mode: u16,
    /// Names of the inode; of a directory 2 and one for each subdirectory. 0: open but unlinked.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device, otherwise 0.
    pub rdev: u32,
    /// Bytes of a regular file or a symbolic link's target; entries of a directory.
    pub size: u64,
    /// Units of 512 bytes that the inode holds of the quota (holes hold none).
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of contents or attributes.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
}

/// What statfs(2) tells: the agreed quota and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Bytes that may be used.
    pub capacity_bytes: u64,
    /// Bytes that are used by contents, targets of links and names.
    pub used_bytes: u64,
    /// Inodes that may exist.
    pub capacity_inodes: u64,
    /// Inodes that exist.
    pub used_inodes: u64,
    /// Bytes of a block, a good size for reads and writes.
    pub block_bytes: u32,
    /// Longest name, in bytes.
    pub name_bytes_max: u32,
}
