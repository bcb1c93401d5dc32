//! The file system's calls, each passed to the directory below.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::{
    Access, AtFlags, CWD, Dir, Gid, Mode, OFlags, RenameFlags as Renaming, Timestamps, Uid,
};
use rustix::io::{Errno, Result};

use super::Caching;
use super::convert::{io_flags, open_flags, read_full, timespec};
use super::nodes::{Node, Nodes, file_type};
use crate::serving::{self, Handles, Listing};

/// The file system.
#[derive(Debug)]
pub(super) struct Passthrough {
    nodes: Nodes,
    files: Handles<File>,
    dirs: Handles<Mutex<Listing>>,
    caching: Caching,
}

impl Passthrough {
    /// Serves the directory `root`.
    pub(super) fn new(root: &Path, caching: Caching) -> Result<Self> {
        let nodes = Nodes::new(root)?;
        Ok(Self { nodes, files: Handles::default(), dirs: Handles::default(), caching })
    }

    /// How the kernel is to treat an open file.
    fn file_flags(&self) -> FopenFlags {
        match self.caching {
            Caching::PageCache => FopenFlags::empty(),
            Caching::Direct => {
                FopenFlags::FOPEN_DIRECT_IO
                    | FopenFlags::FOPEN_NOFLUSH
                    | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            }
        }
    }

    /// Looks up what was just made, after it was given to its owner.
    fn made(&self, req: &Request, parent: INodeNo, name: &OsStr) -> Result<FileAttr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*self.nodes.node(parent)?, name, flags, Mode::empty())?;
        self.nodes.give(parent, fd, req.uid(), req.gid())?;
        self.nodes.lookup(parent, name)
    }

    fn create_file(
        &self,
        req: &Request,
        (parent, name): (INodeNo, &OsStr),
        mode: Mode,
        flags: i32,
    ) -> Result<(FileAttr, FileHandle)> {
        // The kernel looked the name up first; O_EXCL and O_TRUNC mean here what they mean there.
        let kept = OFlags::EXCL | OFlags::TRUNC;
        let flags = io_flags(flags) | (open_flags(flags) & kept) | OFlags::CREATE;
        let file = rustix::fs::openat(&*self.nodes.node(parent)?, name, flags, mode)?;
        self.nodes.give(parent, &file, req.uid(), req.gid())?;
        let attributes = self.nodes.lookup(parent, name)?;
        Ok((attributes, self.files.open(File::from(file))))
    }

    fn open_file(&self, ino: INodeNo, flags: OpenFlags) -> Result<FileHandle> {
        let path = self.nodes.node(ino)?.path();
        // What is opened is the link in /proc, so it must be followed.
        let flags = (io_flags(flags.0) | (open_flags(flags.0) & OFlags::TRUNC)) - OFlags::NOFOLLOW;
        Ok(self.files.open(File::from(rustix::fs::open(path, flags, Mode::empty())?)))
    }

    fn list(&self, ino: INodeNo) -> Result<Listing> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*self.nodes.node(ino)?, ".", flags, Mode::empty())?;
        let mut listing = Listing::new();
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let kind = file_type(entry.file_type()).unwrap_or(FileType::RegularFile);
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            listing.push((self.nodes.number(entry.ino()), kind, name));
        }
        Ok(listing)
    }

    fn change(&self, ino: INodeNo, change: &Change, fh: Option<FileHandle>) -> Result<FileAttr> {
        let node = self.nodes.node(ino)?;
        if let Some(mode) = change.mode {
            rustix::fs::chmod(node.path(), Mode::from_raw_mode(mode & 0o7777))?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            rustix::fs::chownat(&*node, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(size) = change.size {
            match fh {
                Some(fh) => rustix::fs::ftruncate(&*self.files.get(fh)?, size)?,
                None => rustix::fs::ftruncate(&open_to_write(&node)?, size)?,
            }
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(change.atime),
                last_modification: timespec(change.mtime),
            };
            rustix::fs::utimensat(&*node, "", &times, AtFlags::EMPTY_PATH)?;
        }
        self.nodes.attributes(&node.stat()?)
    }
}

/// What a setattr asks to change.
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
}

fn open_to_write(node: &Node) -> Result<OwnedFd> {
    rustix::fs::open(node.path(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

fn entry(reply: ReplyEntry, result: Result<FileAttr>) {
    serving::entry(reply, result.map_err(errno));
}

fn attr(reply: ReplyAttr, result: Result<FileAttr>) {
    serving::attr(reply, result.map_err(errno));
}

fn empty(reply: ReplyEmpty, result: Result<()>) {
    serving::empty(reply, result.map_err(errno));
}

fn opened(reply: ReplyOpen, result: Result<FileHandle>, flags: FopenFlags) {
    match result {
        Ok(handle) => reply.opened(handle, flags),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = match self.caching {
            Caching::PageCache => InitFlags::FUSE_AUTO_INVAL_DATA,
            Caching::Direct => InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP | InitFlags::FUSE_ASYNC_DIO,
        };
        let wanted = wanted | InitFlags::FUSE_ATOMIC_O_TRUNC | InitFlags::FUSE_PARALLEL_DIROPS;
        config.add_capabilities(wanted).map_err(|missing| {
            let message = format!("the kernel's FUSE lacks {missing:?}");
            io::Error::new(io::ErrorKind::Unsupported, message)
        })
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.nodes.lookup(parent, name));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.nodes.forget(ino, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let stat = self.nodes.node(ino).and_then(|node| node.stat());
        attr(reply, stat.and_then(|stat| self.nodes.attributes(&stat)));
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
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        attr(reply, self.change(ino, &Change { mode, uid, gid, size, atime, mtime }, fh));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let node = self.nodes.node(ino);
        match node.and_then(|node| rustix::fs::readlinkat(&*node, "", Vec::new())) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let made = self
            .nodes
            .node(parent)
            .and_then(|parent| rustix::fs::mknodat(&*parent, name, kind, mode, rdev.into()));
        entry(reply, made.and_then(|()| self.made(req, parent, name)));
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
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let dir = self.nodes.node(parent);
        let made = dir.and_then(|dir| rustix::fs::mkdirat(&*dir, name, mode));
        entry(reply, made.and_then(|()| self.made(req, parent, name)));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.nodes.node(parent);
        empty(reply, dir.and_then(|dir| rustix::fs::unlinkat(&*dir, name, AtFlags::empty())));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.nodes.node(parent);
        empty(reply, dir.and_then(|dir| rustix::fs::unlinkat(&*dir, name, AtFlags::REMOVEDIR)));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let dir = self.nodes.node(parent);
        let made = dir.and_then(|dir| rustix::fs::symlinkat(target, &*dir, link_name));
        entry(reply, made.and_then(|()| self.made(req, parent, link_name)));
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
        let flags = Renaming::from_bits_truncate(flags.bits());
        let renamed = self.nodes.node(parent).and_then(|from| {
            rustix::fs::renameat_with(&*from, name, &*self.nodes.node(newparent)?, newname, flags)
        });
        empty(reply, renamed);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = self.nodes.node(ino).and_then(|node| {
            let dir = self.nodes.node(newparent)?;
            rustix::fs::linkat(CWD, node.path(), &*dir, newname, AtFlags::SYMLINK_FOLLOW)
        });
        entry(reply, linked.and_then(|()| self.nodes.lookup(newparent, newname)));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        opened(reply, self.open_file(ino, flags), self.file_flags());
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
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let made = self.create_file(req, (parent, name), mode, flags);
        serving::created(reply, made.map_err(errno), self.file_flags());
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.files.get(fh) {
            Ok(file) => file,
            Err(error) => return reply.error(errno(error)),
        };
        match read_full(&file, offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = match self.files.get(fh) {
            Ok(file) => file,
            Err(error) => return reply.error(errno(error)),
        };
        match (file.write_all_at(data, offset), u32::try_from(data.len())) {
            (Ok(()), Ok(count)) => reply.written(count),
            (Err(error), _) => reply.error(error.into()),
            (Ok(()), Err(_)) => reply.error(fuser::Errno::EIO),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Nothing is kept back here: every write has gone to the file below.
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.close(fh);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let sync = |file: &File| match datasync {
            true => rustix::fs::fdatasync(file),
            false => rustix::fs::fsync(file),
        };
        empty(reply, self.files.get(fh).and_then(|file| sync(&file)));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.nodes.node(ino).map(|_| self.dirs.open(Mutex::default()));
        opened(reply, handle, FopenFlags::empty());
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
            Ok(dir) => serving::listed(reply, &dir, offset, || self.list(ino).map_err(errno)),
            Err(error) => reply.error(errno(error)),
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

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let synced = self.nodes.node(ino).and_then(|node| {
            rustix::fs::fsync(rustix::fs::openat(node.as_fd(), ".", flags, Mode::empty())?)
        });
        empty(reply, synced);
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let stat = self.nodes.node(ino).and_then(|node| rustix::fs::fstatvfs(&*node));
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        match stat {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                narrow(stat.f_bsize),
                narrow(stat.f_namemax),
                narrow(stat.f_frsize),
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let wanted = Access::from_bits_truncate(mask.bits().cast_unsigned());
        let node = self.nodes.node(ino);
        empty(reply, node.and_then(|node| rustix::fs::access(node.path(), wanted)));
    }
}
