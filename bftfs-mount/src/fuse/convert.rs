//! The kernel's vocabulary and ours.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bftfs_fs::{
    Allocation, Attributes, Entry, Lock, LockKind, SetAttributes, SetTime, Sought, Statistics,
    Time, XattrMode, access,
};
use fuser::{
    AccessFlags, Errno, FileAttr, FileType, INodeNo, LockOwner, OpenAccMode, OpenFlags,
    ReplyDirectory, ReplyDirectoryPlus, ReplyLock, ReplyStatfs, ReplyXattr, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags, XattrFlags};

use super::{GENERATION, TTL};
use crate::volume::{Error, OpenHow, Place};

/// What `st_blksize` advises: programs that buffer (stdio, the linker) ask for so many bytes at
/// once. Each request is a round trip to the cluster, so it is more than a page.
const BLOCK_BYTES: u32 = 64 << 10;

pub(super) fn errno(error: Error) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

pub(super) fn attributes(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: system_time(attributes.btime),
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

const fn file_type(kind: bftfs_fs::FileType) -> FileType {
    match kind {
        bftfs_fs::FileType::Regular => FileType::RegularFile,
        bftfs_fs::FileType::Directory => FileType::Directory,
        bftfs_fs::FileType::Symlink => FileType::Symlink,
        bftfs_fs::FileType::Fifo => FileType::NamedPipe,
        bftfs_fs::FileType::Socket => FileType::Socket,
        bftfs_fs::FileType::CharDevice => FileType::CharDevice,
        bftfs_fs::FileType::BlockDevice => FileType::BlockDevice,
    }
}

/// The same moment; the epoch if the system cannot express it.
fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let second = if time.sec < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    let nanos = Duration::from_nanos(time.nsec.into());
    second.and_then(|second| second.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// The moment that the kernel meant. fuser 0.18 subtracts the nanoseconds of a time before the
/// epoch although they count forward; so the whole seconds and the nanoseconds of what it gives
/// are just those of the kernel, and are put together properly here.
fn time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { sec: seconds(after), nsec: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Time { sec: -seconds(before), nsec: before.subsec_nanos() }
        }
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

pub(super) fn changes(
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
) -> SetAttributes {
    let set = |time_or_now| match time_or_now {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(time(at)),
    };
    SetAttributes { mode, uid, gid, size, atime: atime.map(set), mtime: mtime.map(set) }
}

fn flags(flags: OpenFlags) -> OFlags {
    OFlags::from_bits_retain(flags.0.cast_unsigned())
}

/// What the flags of open(2) ask for. The kernel marks what is opened to be run: that needs the
/// right to execute and no other.
pub(super) fn open_how(open: OpenFlags) -> OpenHow {
    /// `__FMODE_EXEC` of the kernel's `include/linux/fs.h`: execve(2) opens so.
    const EXECUTE: i32 = 0x20;
    let mask = if open.0 & EXECUTE != 0 {
        access::EXECUTE
    } else {
        match open.acc_mode() {
            OpenAccMode::O_RDONLY => access::READ,
            OpenAccMode::O_WRONLY => access::WRITE,
            OpenAccMode::O_RDWR => access::READ | access::WRITE,
        }
    };
    let flags = flags(open);
    OpenHow {
        mask,
        truncate: flags.contains(OFlags::TRUNC),
        exclusive: flags.contains(OFlags::EXCL),
    }
}

/// What lseek(2) is to look for, and from where on. The kernel moves to other places by itself.
pub(super) fn seek(offset: i64, whence: i32) -> Result<(u64, Sought), Error> {
    /// `SEEK_DATA` and `SEEK_HOLE` of lseek(2).
    const DATA: i32 = 3;
    const HOLE: i32 = 4;
    let sought = match whence {
        DATA => Sought::Data,
        HOLE => Sought::Hole,
        _ => return Err(Error::INVAL),
    };
    let offset = u64::try_from(offset).map_err(|_| Error::NXIO)?;
    Ok((offset, sought))
}

/// What the mode of fallocate(2) asks for.
pub(super) fn allocation(mode: i32) -> Result<Allocation, Error> {
    let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    let keep_size = flags.contains(FallocateFlags::KEEP_SIZE);
    let kind = flags.difference(FallocateFlags::KEEP_SIZE);
    match (kind, keep_size) {
        (kind, _) if kind.is_empty() => Ok(Allocation::Reserve { keep_size }),
        (FallocateFlags::PUNCH_HOLE, true) => Ok(Allocation::Punch),
        (FallocateFlags::ZERO_RANGE, _) => Ok(Allocation::Zero { keep_size }),
        _ => Err(Error::OPNOTSUPP),
    }
}

/// Where a write goes. What comes from the page cache (a shared mapping) goes where it was.
pub(super) fn place(offset: u64, open: OpenFlags, write: WriteFlags) -> Place {
    let mapped = write.contains(WriteFlags::FUSE_WRITE_CACHE);
    if flags(open).contains(OFlags::APPEND) && !mapped { Place::End } else { Place::At(offset) }
}

/// Kinds of locks, by `l_type` (fcntl(2)).
const LOCK_KINDS: [(i32, LockKind); 3] =
    [(0, LockKind::Read), (1, LockKind::Write), (2, LockKind::Unlock)];

/// A lock as the kernel describes it; `None` if it is of no kind that there is.
pub(super) fn lock(owner: LockOwner, range: (u64, u64), kind: i32, pid: u32) -> Option<Lock> {
    let (_, kind) = LOCK_KINDS.into_iter().find(|(number, _)| *number == kind)?;
    Some(Lock { start: range.0, end: range.1, kind, owner: owner.0, pid })
}

/// Tells the kernel which lock is in the way.
pub(super) fn conflict(reply: ReplyLock, found: Option<Lock>) {
    let none = Lock { start: 0, end: 0, kind: LockKind::Unlock, owner: 0, pid: 0 };
    let found = found.unwrap_or(none);
    let number = LOCK_KINDS.into_iter().find(|(_, kind)| *kind == found.kind);
    let (number, _) = number.expect("every kind has its number");
    reply.locked(found.start, found.end, number, found.pid);
}

pub(super) fn mask(flags: AccessFlags) -> u8 {
    let bit = |flag, bit| if flags.contains(flag) { bit } else { 0 };
    bit(AccessFlags::R_OK, access::READ)
        | bit(AccessFlags::W_OK, access::WRITE)
        | bit(AccessFlags::X_OK, access::EXECUTE)
}

/// What setxattr(2) is to do about an attribute that exists.
pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode, Error> {
    match XattrFlags::from_bits_retain(flags.cast_unsigned()) {
        flags if flags.is_empty() => Ok(XattrMode::Set),
        XattrFlags::CREATE => Ok(XattrMode::Create),
        XattrFlags::REPLACE => Ok(XattrMode::Replace),
        _ => Err(Error::INVAL),
    }
}

/// A value or a list of names if there is room for it; only its length if there is no room at all.
pub(super) fn xattr(reply: ReplyXattr, room: u32, bytes: &[u8]) {
    match u32::try_from(bytes.len()) {
        Ok(length) if room == 0 => reply.size(length),
        Ok(length) if length <= room => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Adds entries until the kernel's buffer is full.
pub(super) fn fill(reply: &mut ReplyDirectory, entries: &[Entry]) {
    for entry in entries {
        let name = OsStr::from_bytes(&entry.name);
        if reply.add(INodeNo(entry.ino.0), entry.cookie, file_type(entry.kind), name) {
            return;
        }
    }
}

/// The same with attributes, which the replicas give with each entry when asked to.
pub(super) fn fill_plus(reply: &mut ReplyDirectoryPlus, entries: &[Entry]) {
    for entry in entries {
        let Some(known) = &entry.attributes else { continue };
        let (name, known) = (OsStr::from_bytes(&entry.name), attributes(known));
        if reply.add(INodeNo(entry.ino.0), entry.cookie, name, &TTL, &known, GENERATION) {
            return;
        }
    }
}

pub(super) fn statfs(reply: ReplyStatfs, statistics: &Statistics) {
    let block = u64::from(statistics.block_bytes.max(1));
    let blocks = statistics.capacity_bytes / block;
    let free = blocks.saturating_sub(statistics.used_bytes.div_ceil(block));
    let files = statistics.capacity_inodes;
    let files_free = files.saturating_sub(statistics.used_inodes);
    let (size, name) = (statistics.block_bytes, statistics.name_bytes_max);
    reply.statfs(blocks, free, free, files, files_free, size, name, size);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_go_both_ways() {
        let epoch_less = |nanos| UNIX_EPOCH - Duration::from_nanos(nanos);
        for (sec, nsec, theirs) in [
            (0, 0, UNIX_EPOCH),
            (5, 7, UNIX_EPOCH + Duration::new(5, 7)),
            (-1, 0, epoch_less(1_000_000_000)),
            (-1, 999_999_999, epoch_less(1)),
            (-2, 800_000_000, epoch_less(1_200_000_000)),
        ] {
            let ours = Time { sec, nsec };
            assert_eq!(system_time(ours), theirs, "{sec}.{nsec:09}");
            // As fuser's time.rs hands them over.
            let span = Duration::new(sec.unsigned_abs(), nsec);
            let handed = if sec < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span };
            assert_eq!(time(handed), ours);
        }
    }

    #[test]
    fn other_seeks_and_allocations_are_refused() {
        assert_eq!(seek(5, 3), Ok((5, Sought::Data)));
        assert_eq!(seek(5, 4), Ok((5, Sought::Hole)));
        assert_eq!(seek(-1, 4), Err(Error::NXIO));
        assert_eq!(seek(5, 0), Err(Error::INVAL));
        // fallocate(2): KEEP_SIZE 1, PUNCH_HOLE 2, COLLAPSE 8, ZERO 16, INSERT 32, UNSHARE 64.
        for (mode, expected) in [
            (0, Ok(Allocation::Reserve { keep_size: false })),
            (1, Ok(Allocation::Reserve { keep_size: true })),
            (3, Ok(Allocation::Punch)),
            (16, Ok(Allocation::Zero { keep_size: false })),
            (17, Ok(Allocation::Zero { keep_size: true })),
        ] {
            assert_eq!(allocation(mode), expected);
        }
        for mode in [2, 8, 18, 19, 32, 64, -1] {
            assert_eq!(allocation(mode), Err(Error::OPNOTSUPP), "{mode}");
        }
    }

    #[test]
    fn appending_is_left_to_the_replicas_unless_a_mapping_is_written_back() {
        let append = OpenFlags(OFlags::APPEND.bits().cast_signed());
        assert_eq!(place(5, append, WriteFlags::empty()), Place::End);
        assert_eq!(place(5, append, WriteFlags::FUSE_WRITE_CACHE), Place::At(5));
        assert_eq!(place(5, OpenFlags(1), WriteFlags::empty()), Place::At(5));
    }
}
