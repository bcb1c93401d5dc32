//! The file system as the kernel calls it.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nfs3_client::nfs3_types::nfs3::{
    FSSTAT3args, LINK3args, Nfs3Option, READLINK3args, REMOVE3args, RENAME3args, RMDIR3args, sattr3,
};
use rustix::fs::OFlags;

use super::convert;
use super::export::{Export, place};
use crate::serving::{Handles, Listing, attr, created, empty, entry, listed};

/// As `bftfs-mount` has it.
const FILE_FLAGS: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// The file system.
#[derive(Debug)]
pub(super) struct Nfs {
    export: Export,
    dirs: Handles<Mutex<Listing>>,
}

impl Nfs {
    /// Serves `export`.
    pub(super) fn new(export: Export) -> Self {
        Self { export, dirs: Handles::default() }
    }
}

impl Filesystem for Nfs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_PARALLEL_DIROPS;
        config.add_capabilities(wanted).map_err(|missing| {
            let message = format!("the kernel's FUSE lacks {missing:?}");
            io::Error::new(io::ErrorKind::Unsupported, message)
        })
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.export.find(parent, name));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.export.nodes.forget(ino, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let stat = self.export.nodes.node(ino).and_then(|node| self.export.stat(node.handle()));
        attr(reply, stat.map(|stat| self.export.attributes(&stat)));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = sattr3 {
            mode: convert::option(mode.map(|mode| mode & 0o7777)),
            uid: convert::option(uid),
            gid: convert::option(gid),
            size: convert::option(size),
            atime: convert::atime(atime),
            mtime: convert::mtime(mtime),
        };
        attr(reply, self.export.change(ino, change));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.export.nodes.node(ino).and_then(|node| {
            let args = READLINK3args { symlink: node.handle() };
            self.export.pool.call(async |nfs| nfs.readlink(&args).await)
        });
        match target {
            Ok(target) => reply.data(target.data.as_ref()),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let begin = convert::fresh(mode, req.uid(), req.gid());
        entry(reply, self.export.make_dir((parent, name), begin));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.export.nodes.node(parent).and_then(|dir| {
            let args = REMOVE3args { object: place(&dir, name) };
            self.export.pool.call(async |nfs| nfs.remove(&args).await)
        });
        empty(reply, removed.map(drop));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.export.nodes.node(parent).and_then(|dir| {
            let args = RMDIR3args { object: place(&dir, name) };
            self.export.pool.call(async |nfs| nfs.rmdir(&args).await)
        });
        empty(reply, removed.map(drop));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let begin = convert::fresh(0o777, req.uid(), req.gid());
        entry(reply, self.export.make_link((parent, link_name), target, begin));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let renamed = self.export.nodes.node(parent).and_then(|from| {
            let to = self.export.nodes.node(newparent)?;
            let args = RENAME3args { from: place(&from, name), to: place(&to, newname) };
            self.export.pool.call(async |nfs| nfs.rename(&args).await)
        });
        empty(reply, renamed.map(drop));
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = self.export.nodes.node(ino).and_then(|node| {
            let dir = self.export.nodes.node(newparent)?;
            let args = LINK3args { file: node.handle(), link: place(&dir, newname) };
            let linked = self.export.pool.call(async |nfs| nfs.link(&args).await)?;
            self.export.refer(node.handle(), linked.file_attributes)
        });
        entry(reply, linked);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncated = match OFlags::from_bits_truncate(flags.0.cast_unsigned()) {
            flags if flags.contains(OFlags::TRUNC) => {
                let size = Nfs3Option::Some(0);
                self.export.change(ino, sattr3 { size, ..sattr3::default() }).map(drop)
            }
            _ => Ok(()),
        };
        match truncated {
            Ok(()) => reply.opened(FileHandle(0), FILE_FLAGS),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let begin = convert::fresh(mode, req.uid(), req.gid());
        let made = self.export.create_file((parent, name), begin, flags);
        created(reply, made.map(|made| (made, FileHandle(0))), FILE_FLAGS);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.export.read_all(ino, offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let count = u32::try_from(data.len()).map_err(|_| Errno::EINVAL);
        match count.and_then(|count| self.export.write_all(ino, offset, data).map(|()| count)) {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.export.commit(ino));
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.export.commit(ino));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.export.nodes.node(ino) {
            Ok(_) => reply.opened(self.dirs.open(Mutex::default()), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        match self.dirs.get(fh) {
            Ok(dir) => listed(reply, &dir, offset, || self.export.list(ino)),
            Err(_) => reply.error(Errno::EBADF),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.dirs.close(fh);
        reply.ok();
    }

    /// Every change of a directory is on the server's disk when NFS answers it.
    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u64 = 4096;
        let stat = self.export.nodes.node(ino).and_then(|node| {
            let args = FSSTAT3args { fsroot: node.handle() };
            self.export.pool.call(async |nfs| nfs.fsstat(&args).await)
        });
        match stat {
            Ok(stat) => reply.statfs(
                stat.tbytes / BLOCK,
                stat.fbytes / BLOCK,
                stat.abytes / BLOCK,
                stat.tfiles,
                stat.ffiles,
                4096,
                255,
                4096,
            ),
            Err(error) => reply.error(error),
        }
    }
}
