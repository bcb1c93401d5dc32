//! Inodes that the kernel refers to.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

use crate::serving::References;

/// A reference to a file without the right to read it (open(2), O_PATH); it also keeps the
/// inode's number from being used anew.
const REFERENCE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// One inode that the kernel knows.
#[derive(Debug)]
pub(super) struct Node {
    fd: OwnedFd,
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Node {
    /// A path that names this inode to calls which want to open it.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// The inode's attributes.
    pub(super) fn stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.fd)
    }
}

/// All inodes that the kernel knows, each with the number of its references (fuse(4) lookups).
#[derive(Debug)]
pub(super) struct Nodes {
    root: Arc<Node>,
    root_stat: Stat,
    known: References<Node>,
}

impl Nodes {
    /// Begins with the directory `root` only.
    pub(super) fn new(root: &Path) -> Result<Self> {
        let fd = rustix::fs::open(
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let root = Node { fd };
        let root_stat = root.stat()?;
        Ok(Self { root: Arc::new(root), root_stat, known: References::default() })
    }

    /// The inode that the kernel means by `ino`.
    pub(super) fn node(&self, ino: INodeNo) -> Result<Arc<Node>> {
        if ino == INodeNo::ROOT {
            return Ok(Arc::clone(&self.root));
        }
        self.known.get(ino).ok_or(Errno::STALE)
    }

    /// Finds `name` in `parent` and counts one more reference to what it names.
    pub(super) fn lookup(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr> {
        let fd = rustix::fs::openat(&*self.node(parent)?, name, REFERENCE, Mode::empty())?;
        let node = Node { fd };
        let stat = node.stat()?;
        // Inode numbers are unique within one file system only.
        if stat.st_dev != self.root_stat.st_dev {
            return Err(Errno::XDEV);
        }
        if stat.st_ino != self.root_stat.st_ino {
            // Numbers of inodes below are not used anew while the kernel knows them.
            self.known.refer(INodeNo(stat.st_ino), node, |_, _| true);
        }
        self.attributes(&stat)
    }

    /// Forgets `count` references to `ino`, and the inode with the last.
    pub(super) fn forget(&self, ino: INodeNo, count: u64) {
        self.known.forget(ino, count);
    }

    /// The kernel's number of the inode with the number `ino` below.
    pub(super) fn number(&self, ino: u64) -> INodeNo {
        if ino == self.root_stat.st_ino { INodeNo::ROOT } else { INodeNo(ino) }
    }

    /// `stat` in the kernel's terms.
    pub(super) fn attributes(&self, stat: &Stat) -> Result<FileAttr> {
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        Ok(FileAttr {
            ino: self.number(stat.st_ino),
            size: u64::try_from(stat.st_size).map_err(|_| Errno::IO)?,
            blocks: u64::try_from(stat.st_blocks).map_err(|_| Errno::IO)?,
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            crtime: UNIX_EPOCH,
            kind: file_type(kind).ok_or(Errno::IO)?,
            perm: u16::try_from(stat.st_mode & 0o7777).map_err(|_| Errno::IO)?,
            nlink: u32::try_from(stat.st_nlink).map_err(|_| Errno::IO)?,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: u32::try_from(stat.st_rdev).map_err(|_| Errno::IO)?,
            blksize: u32::try_from(stat.st_blksize).map_err(|_| Errno::IO)?,
            flags: 0,
        })
    }

    /// Gives a new file to the one who made it, as the kernel does for itself: its group is the
    /// directory's where that has the set-group-id bit (inode(7)).
    pub(super) fn give(&self, parent: INodeNo, made: impl AsFd, uid: u32, gid: u32) -> Result<()> {
        let parent = self.node(parent)?.stat()?;
        let stat = rustix::fs::statat(&made, "", AtFlags::EMPTY_PATH)?;
        let gid = if parent.st_mode & 0o2000 == 0 { gid } else { stat.st_gid };
        if (stat.st_uid, stat.st_gid) == (uid, gid) {
            return Ok(());
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    }
}

/// The kind of a file in the kernel's terms; `None` if there is no such kind.
pub(super) fn file_type(kind: rustix::fs::FileType) -> Option<FileType> {
    use rustix::fs::FileType as Kind;
    match kind {
        Kind::RegularFile => Some(FileType::RegularFile),
        Kind::Directory => Some(FileType::Directory),
        Kind::Symlink => Some(FileType::Symlink),
        Kind::Fifo => Some(FileType::NamedPipe),
        Kind::Socket => Some(FileType::Socket),
        Kind::CharacterDevice => Some(FileType::CharDevice),
        Kind::BlockDevice => Some(FileType::BlockDevice),
        Kind::Unknown => None,
    }
}

fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
    start + Duration::from_nanos(nanoseconds)
}
