//! The kernel's side: turns its requests into calls of the [`Volume`], and answers into replies.
//!
//! Nothing waits here: each call is handed on with the reply object and the thread fetches the
//! next request. What is not here (files without a name, …) is refused with ENOSYS, which the kernel
//! remembers and turns into its own fallback: EOPNOTSUPP for `O_TMPFILE`.

mod convert;
mod replies;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bftfs_fs::{Attributes, masked};
use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tracing::debug;

use crate::stats::{Kind, Stats};
use crate::volume::{Cluster, Error, Listing, Volume};

use replies::process;

/// Neither names nor attributes are cached by the kernel: another mount may change them.
const TTL: Duration = Duration::ZERO;
/// Inode numbers are never used twice.
const GENERATION: Generation = Generation(0);
/// Bytes of the largest write request.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Read-ahead and asynchronous direct requests that the kernel may have under way.
const BACKGROUND_MAX: u16 = 64;
/// Wanted if the kernel has them.
const CAPABILITIES: [InitFlags; 8] = [
    // open(O_TRUNC) is one request.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Lookups and listings in one directory do not wait for each other.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // Large direct reads and writes go out together.
    InitFlags::FUSE_ASYNC_DIO,
    // mmap(MAP_SHARED) works although reads and writes bypass the page cache.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // The replicas clear set-user-id bits; the kernel need not ask for them before each write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // The replicas say what the umask does not take: a directory may have a default ACL.
    InitFlags::FUSE_DONT_MASK,
    // Locks hold across mounts.
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
];

/// Reads and writes go to the cluster, never to the page cache.
const FILE_FLAGS: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// A mounted volume.
pub struct Fuse<C> {
    volume: Volume<C>,
    stats: Arc<Stats>,
    ended: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl<C> fmt::Debug for Fuse<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fuse").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl<C: Cluster> Fuse<C> {
    /// Serves `volume`, counting in `stats`, and calls `ended` when the kernel has let go of it.
    #[must_use]
    pub fn new(
        volume: Volume<C>,
        stats: Arc<Stats>,
        ended: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        Self { volume, stats, ended: Some(Box::new(ended)) }
    }
}

impl<C: Cluster> Filesystem for Fuse<C> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let policy = self.volume.policy();
        let plus = policy.plus.then_some(InitFlags::FUSE_DO_READDIRPLUS);
        let acl = policy.kernel_checks.then_some(InitFlags::FUSE_POSIX_ACL);
        for capability in CAPABILITIES.into_iter().chain(plus).chain(acl) {
            if let Err(missing) = config.add_capabilities(capability) {
                debug!("this kernel has no {missing:?}");
            }
        }
        // Each is taken as far as the kernel goes; what it allows instead is in the error.
        let _allowed = config.set_max_write(WRITE_BYTES_MAX);
        let _allowed = config.set_max_background(BACKGROUND_MAX);
        if let Err(allowed) = config.set_max_readahead(WRITE_BYTES_MAX) {
            let _set = config.set_max_readahead(allowed);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended();
        }
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let then = self.entry(request, Kind::Lookup, reply);
        self.volume.lookup(process(request), parent.0, name.as_bytes(), then);
    }

    fn forget(&self, _request: &Request, _ino: INodeNo, _nlookup: u64) {
        // Inodes live with the replicas; what the kernel forgets was never counted here.
        self.stats.note(Kind::Forget, Instant::now(), false);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.volume.getattr(process(request), ino.0, self.attr(request, Kind::Getattr, reply));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let then = self.attr(request, Kind::Setattr, reply);
        let changes = convert::changes(mode, uid, gid, size, atime, mtime);
        let handle = handle.map(|handle| handle.0);
        self.volume.setattr(process(request), ino.0, handle, changes, then);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let then =
            self.then(request, Kind::Readlink, move |result: Result<Bytes, _>| match result {
                Ok(target) => reply.data(&target),
                Err(errno) => reply.error(errno),
            });
        self.volume.readlink(process(request), ino.0, then);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let then = self.entry(request, Kind::Mknod, reply);
        self.volume.mknod(
            process(request),
            parent.0,
            name.as_bytes(),
            masked(mode, umask),
            rdev,
            then,
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let then = self.entry(request, Kind::Mkdir, reply);
        let mode = masked(mode, umask);
        self.volume.mkdir(process(request), parent.0, name.as_bytes(), mode, then);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let then = self.empty(request, Kind::Unlink, reply);
        self.volume.unlink(process(request), parent.0, name.as_bytes(), then);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let then = self.empty(request, Kind::Rmdir, reply);
        self.volume.rmdir(process(request), parent.0, name.as_bytes(), then);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let then = self.entry(request, Kind::Symlink, reply);
        let target = target.as_os_str().as_bytes();
        self.volume.symlink(process(request), parent.0, name.as_bytes(), target, then);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let then = self.empty(request, Kind::Rename, reply);
        let from = (parent.0, name.as_bytes());
        let to = (new_parent.0, new_name.as_bytes());
        self.volume.rename(process(request), from, to, flags.bits(), then);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let then = self.entry(request, Kind::Link, reply);
        self.volume.link(process(request), ino.0, new_parent.0, new_name.as_bytes(), then);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let reply = move |result| match result {
            Ok(handle) => reply.opened(FileHandle(handle), FILE_FLAGS),
            Err(errno) => reply.error(errno),
        };
        let volume = self.volume.clone();
        let close = move |handle| volume.release(handle);
        let then = self.then_or(request, Kind::Open, reply, close);
        self.volume.open(process(request), ino.0, convert::open_how(flags), then);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let reply = move |result: Result<(Attributes, u64), _>| match result {
            Ok((attributes, handle)) => {
                let attributes = convert::attributes(&attributes);
                reply.created(&TTL, &attributes, GENERATION, FileHandle(handle), FILE_FLAGS);
            }
            Err(errno) => reply.error(errno),
        };
        let volume = self.volume.clone();
        let close = move |(_, handle): (Attributes, u64)| volume.release(handle);
        let then = self.then_or(request, Kind::Create, reply, close);
        let how = convert::open_how(OpenFlags(flags));
        let mode = masked(mode, umask);
        self.volume.create(process(request), parent.0, name.as_bytes(), mode, how, then);
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let then = self.then(request, Kind::Read, move |result: Result<Bytes, _>| match result {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        });
        self.volume.read(handle.0, offset, size, then);
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let then = self.then(request, Kind::Write, move |result| match result {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
        let place = convert::place(offset, flags, write_flags);
        self.volume.write(handle.0, place, data, then);
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Every write has been acknowledged by the cluster before its caller went on; but the
        // locks of a process go when it closes the file.
        self.volume.flush(ino.0, owner.0, self.empty(request, Kind::Flush, reply));
    }

    fn getlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let then = self.then(request, Kind::Getlk, move |result| match result {
            Ok(found) => convert::conflict(reply, found),
            Err(errno) => reply.error(errno),
        });
        match convert::lock(owner, (start, end), kind, pid) {
            Some(lock) => self.volume.get_lock(handle.0, lock, then),
            None => then(Err(Error::INVAL)),
        }
    }

    fn setlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let then = self.empty(request, Kind::Setlk, reply);
        match convert::lock(owner, (start, end), kind, pid) {
            Some(lock) => self.volume.set_lock(process(request), handle.0, lock, wait, then),
            None => then(Err(Error::INVAL)),
        }
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.volume.release(handle.0);
        self.empty(request, Kind::Release, reply)(Ok(()));
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.volume.fsync(handle.0, self.empty(request, Kind::Fsync, reply));
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let reply = move |result| match result {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        };
        let volume = self.volume.clone();
        let close = move |handle| volume.releasedir(handle);
        let then = self.then_or(request, Kind::Opendir, reply, close);
        self.volume.opendir(process(request), ino.0, then);
    }

    fn readdir(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let then =
            self.then(request, Kind::Readdir, move |result: Result<Listing, _>| match result {
                Ok(listing) => {
                    convert::fill(&mut reply, listing.entries());
                    reply.ok();
                }
                Err(errno) => reply.error(errno),
            });
        self.volume.readdir(handle.0, offset, then);
    }

    fn readdirplus(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let then =
            self.then(request, Kind::Readdirplus, move |result: Result<Listing, _>| match result {
                Ok(listing) => {
                    convert::fill_plus(&mut reply, listing.entries());
                    reply.ok();
                }
                Err(errno) => reply.error(errno),
            });
        self.volume.readdir(handle.0, offset, then);
    }

    fn releasedir(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.volume.releasedir(handle.0);
        self.empty(request, Kind::Releasedir, reply)(Ok(()));
    }

    fn fsyncdir(
        &self,
        request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        // A change of a directory has been acknowledged before its caller went on.
        self.empty(request, Kind::Fsyncdir, reply)(Ok(()));
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let then = self.then(request, Kind::Statfs, move |result| match result {
            Ok(capacity) => convert::statfs(reply, &capacity),
            Err(errno) => reply.error(errno),
        });
        self.volume.statfs(process(request), then);
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let then = self.empty(request, Kind::Access, reply);
        self.volume.access(process(request), ino.0, convert::mask(mask), then);
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let then = self.empty(request, Kind::Setxattr, reply);
        match convert::xattr_mode(flags) {
            Ok(mode) => {
                let name = name.as_bytes();
                self.volume.setxattr(process(request), ino.0, name, value, mode, then);
            }
            Err(error) => then(Err(error)),
        }
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let then = self.xattr(request, Kind::Getxattr, size, reply);
        self.volume.getxattr(process(request), ino.0, name.as_bytes(), then);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let then = self.xattr(request, Kind::Listxattr, size, reply);
        self.volume.listxattr(process(request), ino.0, then);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let then = self.empty(request, Kind::Removexattr, reply);
        self.volume.removexattr(process(request), ino.0, name.as_bytes(), then);
    }
    fn lseek(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let then = self.then(request, Kind::Lseek, move |result: Result<u64, _>| match result {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(errno) => reply.error(errno),
        });
        match convert::seek(offset, whence) {
            Ok((offset, sought)) => self.volume.seek(handle.0, offset, sought, then),
            Err(error) => then(Err(error)),
        }
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let then = self.empty(request, Kind::Fallocate, reply);
        match convert::allocation(mode) {
            Ok(how) => self.volume.allocate(handle.0, offset, length, how, then),
            Err(error) => then(Err(error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        length: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let then = self.then(request, Kind::CopyFileRange, move |result| match result {
            Ok(copied) => reply.written(copied),
            Err(errno) => reply.error(errno),
        });
        if flags.bits() != 0 {
            return then(Err(Error::INVAL));
        }
        let (from, to) = ((handle_in.0, offset_in), (handle_out.0, offset_out));
        self.volume.copy(from, to, length, then);
    }
}
