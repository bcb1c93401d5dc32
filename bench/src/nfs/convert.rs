//! Between the kernel's terms and those of NFSv3 (RFC 1813).

use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use nfs3_client::nfs3_types::nfs3::{
    Nfs3Option, fattr3, ftype3, nfsstat3, nfstime3, sattr3, set_atime, set_mtime,
};

/// What a status of the server means here.
pub(super) fn errno(status: nfsstat3) -> Errno {
    match status {
        nfsstat3::NFS3ERR_PERM => Errno::EPERM,
        nfsstat3::NFS3ERR_NOENT => Errno::ENOENT,
        nfsstat3::NFS3ERR_NXIO => Errno::ENXIO,
        nfsstat3::NFS3ERR_ACCES => Errno::EACCES,
        nfsstat3::NFS3ERR_EXIST => Errno::EEXIST,
        nfsstat3::NFS3ERR_XDEV => Errno::EXDEV,
        nfsstat3::NFS3ERR_NODEV => Errno::ENODEV,
        nfsstat3::NFS3ERR_NOTDIR => Errno::ENOTDIR,
        nfsstat3::NFS3ERR_ISDIR => Errno::EISDIR,
        nfsstat3::NFS3ERR_INVAL => Errno::EINVAL,
        nfsstat3::NFS3ERR_FBIG => Errno::EFBIG,
        nfsstat3::NFS3ERR_NOSPC => Errno::ENOSPC,
        nfsstat3::NFS3ERR_ROFS => Errno::EROFS,
        nfsstat3::NFS3ERR_MLINK => Errno::EMLINK,
        nfsstat3::NFS3ERR_NAMETOOLONG => Errno::ENAMETOOLONG,
        nfsstat3::NFS3ERR_NOTEMPTY => Errno::ENOTEMPTY,
        nfsstat3::NFS3ERR_DQUOT => Errno::EDQUOT,
        nfsstat3::NFS3ERR_STALE | nfsstat3::NFS3ERR_BADHANDLE => Errno::ESTALE,
        nfsstat3::NFS3ERR_NOTSUPP => Errno::ENOTSUP,
        _ => Errno::EIO,
    }
}

/// The kernel's number of a file of the export whose root has the number `root`.
pub(super) fn number(fileid: u64, root: u64) -> INodeNo {
    if fileid == root { INodeNo::ROOT } else { INodeNo(fileid) }
}

/// `attributes` in the kernel's terms.
pub(super) fn attributes(attributes: &fattr3, root: u64) -> FileAttr {
    let device = &attributes.rdev;
    FileAttr {
        ino: number(attributes.fileid, root),
        size: attributes.size,
        blocks: attributes.used.div_ceil(512),
        atime: attributes.atime.into(),
        mtime: attributes.mtime.into(),
        ctime: attributes.ctime.into(),
        crtime: UNIX_EPOCH,
        kind: kind(attributes.type_),
        perm: u16::try_from(attributes.mode & 0o7777).unwrap_or(0),
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: u32::try_from(rustix::fs::makedev(device.specdata1, device.specdata2)).unwrap_or(0),
        blksize: 4096,
        flags: 0,
    }
}

/// The kind of a file.
pub(super) fn kind(kind: ftype3) -> FileType {
    match kind {
        ftype3::NF3REG => FileType::RegularFile,
        ftype3::NF3DIR => FileType::Directory,
        ftype3::NF3BLK => FileType::BlockDevice,
        ftype3::NF3CHR => FileType::CharDevice,
        ftype3::NF3LNK => FileType::Symlink,
        ftype3::NF3SOCK => FileType::Socket,
        ftype3::NF3FIFO => FileType::NamedPipe,
    }
}

/// A value to set, or not to.
pub(super) fn option<T>(value: Option<T>) -> Nfs3Option<T>
where
    T: nfs3_client::nfs3_types::xdr_codec::Pack + nfs3_client::nfs3_types::xdr_codec::Unpack,
{
    value.map_or(Nfs3Option::None, Nfs3Option::Some)
}

/// What a new file of `mode` and these owners begins with.
pub(super) fn fresh(mode: u32, uid: u32, gid: u32) -> sattr3 {
    sattr3 {
        mode: Nfs3Option::Some(mode & 0o7777),
        uid: Nfs3Option::Some(uid),
        gid: Nfs3Option::Some(gid),
        ..sattr3::default()
    }
}

/// A time of access to set, or not to.
pub(super) fn atime(time: Option<TimeOrNow>) -> set_atime {
    match time {
        None => set_atime::DONT_CHANGE,
        Some(TimeOrNow::Now) => set_atime::SET_TO_SERVER_TIME,
        Some(TimeOrNow::SpecificTime(time)) => set_atime::SET_TO_CLIENT_TIME(nfstime(time)),
    }
}

/// A time of modification to set, or not to.
pub(super) fn mtime(time: Option<TimeOrNow>) -> set_mtime {
    match time {
        None => set_mtime::DONT_CHANGE,
        Some(TimeOrNow::Now) => set_mtime::SET_TO_SERVER_TIME,
        Some(TimeOrNow::SpecificTime(time)) => set_mtime::SET_TO_CLIENT_TIME(nfstime(time)),
    }
}

/// NFSv3 knows no time before 1970.
fn nfstime(time: SystemTime) -> nfstime3 {
    nfstime3::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use nfs3_client::nfs3_types::nfs3::specdata3;

    #[test]
    fn a_status_is_the_errno_of_linux_and_not_its_own_number() {
        // 66 and 70 are other errors on Linux.
        assert_eq!(errno(nfsstat3::NFS3ERR_NOTEMPTY).code(), 39);
        assert_eq!(errno(nfsstat3::NFS3ERR_STALE).code(), 116);
        assert_eq!(errno(nfsstat3::NFS3ERR_JUKEBOX).code(), 5);
    }

    #[test]
    fn attributes_keep_kind_mode_times_and_the_root() {
        let given = fattr3 {
            type_: ftype3::NF3DIR,
            mode: 0o41755,
            nlink: 2,
            uid: 3,
            gid: 4,
            size: 5,
            used: 513,
            rdev: specdata3::default(),
            fsid: 6,
            fileid: 12,
            atime: nfstime3::default(),
            mtime: nfstime3 { seconds: 7, nseconds: 8 },
            ctime: nfstime3::default(),
        };
        let read = attributes(&given, 12);
        assert_eq!((read.ino, read.kind, read.perm), (INodeNo::ROOT, FileType::Directory, 0o1755));
        assert_eq!(read.mtime, UNIX_EPOCH + Duration::new(7, 8));
        assert_eq!((read.nlink, read.uid, read.gid, read.size, read.blocks), (2, 3, 4, 5, 2));
        assert_eq!(attributes(&given, 1).ino, INodeNo(12));
    }

    #[test]
    fn times_are_set_by_the_server_or_by_the_caller_or_not() {
        assert!(matches!(mtime(None), set_mtime::DONT_CHANGE));
        assert!(matches!(mtime(Some(TimeOrNow::Now)), set_mtime::SET_TO_SERVER_TIME));
        let before = UNIX_EPOCH - Duration::from_secs(1);
        let set_atime::SET_TO_CLIENT_TIME(time) = atime(Some(TimeOrNow::SpecificTime(before)))
        else {
            panic!("a time that was given must be set");
        };
        assert_eq!((time.seconds, time.nseconds), (0, 0));
    }
}
