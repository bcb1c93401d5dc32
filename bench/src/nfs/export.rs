//! What the calls do, each one or a few of NFSv3.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use fuser::{Errno, FileAttr, FileType, INodeNo};
use nfs3_client::nfs3_types::nfs3::{
    COMMIT3args, CREATE3args, FSINFO3args, GETATTR3args, LOOKUP3args, MKDIR3args, Nfs3Option,
    READ3args, READDIRPLUS3args, SETATTR3args, SYMLINK3args, WRITE3args, cookieverf3, createhow3,
    diropargs3, fattr3, nfs_fh3, post_op_attr, post_op_fh3, sattr3, stable_how, symlinkdata3,
};
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use rustix::fs::OFlags;

use super::Writes;
use super::client::Pool;
use super::convert;
use super::nodes::{Node, Nodes};
use crate::serving::Listing;

/// How much of a directory is asked for at once.
const LISTING_BYTES: u32 = 64 << 10;

/// Errors are what the kernel is told.
pub(super) type Result<T> = std::result::Result<T, Errno>;

/// An export, and what the kernel knows of it.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) pool: Pool,
    pub(super) nodes: Nodes,
    root: u64,
    writes: Writes,
    /// The most that the server takes and gives at once.
    write_bytes: usize,
    read_bytes: u32,
}

impl Export {
    /// Serves the export with the root `root`.
    pub(super) fn new(pool: Pool, root: nfs_fh3, writes: Writes) -> Result<Self> {
        let limits = pool.call(async |nfs| nfs.fsinfo(&FSINFO3args::from(root.clone())).await)?;
        let mut this = Self {
            pool,
            nodes: Nodes::new(root.clone()),
            root: 0,
            writes,
            write_bytes: usize::try_from(limits.wtmax.max(4096)).unwrap_or(4096),
            read_bytes: limits.rtmax.max(4096),
        };
        this.root = this.stat(root)?.fileid;
        Ok(this)
    }

    pub(super) fn attributes(&self, attributes: &fattr3) -> FileAttr {
        convert::attributes(attributes, self.root)
    }

    pub(super) fn stat(&self, object: nfs_fh3) -> Result<fattr3> {
        let args = GETATTR3args { object };
        Ok(self.pool.call(async |nfs| nfs.getattr(&args).await)?.obj_attributes)
    }

    /// Counts a reference to what the server has told about; it may leave the attributes out.
    pub(super) fn refer(&self, handle: nfs_fh3, known: post_op_attr) -> Result<FileAttr> {
        let attributes = match known {
            Nfs3Option::Some(attributes) => attributes,
            Nfs3Option::None => self.stat(handle.clone())?,
        };
        let attributes = self.attributes(&attributes);
        self.nodes.refer(attributes.ino, handle);
        Ok(attributes)
    }

    pub(super) fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr> {
        let dir = self.nodes.node(parent)?;
        let args = LOOKUP3args { what: place(&dir, name) };
        let found = self.pool.call(async |nfs| nfs.lookup(&args).await)?;
        self.refer(found.object, found.obj_attributes)
    }

    /// What was just made: the server may leave out its handle.
    fn made(
        &self,
        (parent, name): (INodeNo, &OsStr),
        handle: post_op_fh3,
        attributes: post_op_attr,
    ) -> Result<FileAttr> {
        match handle {
            Nfs3Option::Some(handle) => self.refer(handle, attributes),
            Nfs3Option::None => self.find(parent, name),
        }
    }

    pub(super) fn create_file(
        &self,
        (parent, name): (INodeNo, &OsStr),
        mut begin: sattr3,
        flags: i32,
    ) -> Result<FileAttr> {
        let flags = OFlags::from_bits_truncate(flags.cast_unsigned());
        let dir = self.nodes.node(parent)?;
        let how = if flags.contains(OFlags::EXCL) {
            createhow3::GUARDED(begin)
        } else {
            if flags.contains(OFlags::TRUNC) {
                begin.size = Nfs3Option::Some(0);
            }
            createhow3::UNCHECKED(begin)
        };
        let args = CREATE3args { where_: place(&dir, name), how };
        let made = self.pool.call(async |nfs| nfs.create(&args).await)?;
        self.made((parent, name), made.obj, made.obj_attributes)
    }

    pub(super) fn make_dir(
        &self,
        (parent, name): (INodeNo, &OsStr),
        attributes: sattr3,
    ) -> Result<FileAttr> {
        let dir = self.nodes.node(parent)?;
        let args = MKDIR3args { where_: place(&dir, name), attributes };
        let made = self.pool.call(async |nfs| nfs.mkdir(&args).await)?;
        self.made((parent, name), made.obj, made.obj_attributes)
    }

    pub(super) fn make_link(
        &self,
        (parent, name): (INodeNo, &OsStr),
        target: &Path,
        symlink_attributes: sattr3,
    ) -> Result<FileAttr> {
        let dir = self.nodes.node(parent)?;
        let symlink_data = target.as_os_str().as_bytes().into();
        let symlink = symlinkdata3 { symlink_attributes, symlink_data };
        let args = SYMLINK3args { where_: place(&dir, name), symlink };
        let made = self.pool.call(async |nfs| nfs.symlink(&args).await)?;
        self.made((parent, name), made.obj, made.obj_attributes)
    }

    pub(super) fn change(&self, ino: INodeNo, new_attributes: sattr3) -> Result<FileAttr> {
        let object = self.nodes.node(ino)?.handle();
        let args = SETATTR3args { object: object.clone(), new_attributes, guard: Nfs3Option::None };
        let changed = self.pool.call(async |nfs| nfs.setattr(&args).await)?;
        match changed.obj_wcc.after {
            Nfs3Option::Some(attributes) => Ok(self.attributes(&attributes)),
            Nfs3Option::None => Ok(self.attributes(&self.stat(object)?)),
        }
    }

    /// Fewer than `size` bytes only at the end of the file.
    pub(super) fn read_all(&self, ino: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>> {
        let node = self.nodes.node(ino)?;
        let mut data: Vec<u8> = Vec::new();
        while data.len() < size as usize {
            let left = u32::try_from(size as usize - data.len()).unwrap_or(size);
            let offset = offset + data.len() as u64;
            let args = READ3args { file: node.handle(), offset, count: left.min(self.read_bytes) };
            let part = self.pool.call(async |nfs| nfs.read(&args).await)?;
            data.extend_from_slice(&part.data);
            if part.eof || part.data.is_empty() {
                break;
            }
        }
        // A server that sends more than was asked for must not fail the kernel's check.
        data.truncate(size as usize);
        Ok(data)
    }

    pub(super) fn write_all(&self, ino: INodeNo, mut offset: u64, mut data: &[u8]) -> Result<()> {
        let node = self.nodes.node(ino)?;
        let stable = match self.writes {
            Writes::Sync => stable_how::FILE_SYNC,
            Writes::Async => stable_how::UNSTABLE,
        };
        while !data.is_empty() {
            let part = &data[..data.len().min(self.write_bytes)];
            let count = u32::try_from(part.len()).map_err(|_| Errno::EINVAL)?;
            let file = node.handle();
            let args = WRITE3args { file, offset, count, stable, data: Opaque::borrowed(part) };
            let answer = self.pool.call(async |nfs| nfs.write(&args).await)?;
            if answer.committed != stable_how::FILE_SYNC {
                node.written();
            }
            let done = answer.count as usize;
            if done == 0 || done > part.len() {
                return Err(Errno::EIO);
            }
            offset += done as u64;
            data = &data[done..];
        }
        Ok(())
    }

    /// Brings what was written onto the server's disk, if anything may not be there.
    pub(super) fn commit(&self, ino: INodeNo) -> Result<()> {
        let node = self.nodes.node(ino)?;
        if !node.take_uncommitted() {
            return Ok(());
        }
        let args = COMMIT3args { file: node.handle(), offset: 0, count: 0 };
        let committed = self.pool.call(async |nfs| nfs.commit(&args).await);
        committed.map(drop).inspect_err(|_| node.written())
    }

    pub(super) fn list(&self, ino: INodeNo) -> Result<Listing> {
        let dir = self.nodes.node(ino)?;
        let (mut listing, mut cookie, mut verifier) = (Listing::new(), 0, cookieverf3::default());
        loop {
            let args = READDIRPLUS3args {
                dir: dir.handle(),
                cookie,
                cookieverf: verifier,
                dircount: LISTING_BYTES,
                maxcount: LISTING_BYTES,
            };
            let part = self.pool.call(async |nfs| nfs.readdirplus(&args).await)?;
            verifier = part.cookieverf;
            let entries = part.reply.entries.into_inner();
            let last = entries.last().map(|entry| entry.cookie);
            for entry in entries {
                let kind = match &entry.name_attributes {
                    Nfs3Option::Some(attributes) => convert::kind(attributes.type_),
                    Nfs3Option::None => FileType::RegularFile,
                };
                let ino = convert::number(entry.fileid, self.root);
                listing.push((ino, kind, OsString::from_vec(entry.name.0.into_owned())));
            }
            match last {
                Some(last) if !part.reply.eof && last != cookie => cookie = last,
                _ => return Ok(listing),
            }
        }
    }
}

/// `name` in `dir`.
pub(super) fn place<'a>(dir: &Node, name: &'a OsStr) -> diropargs3<'a> {
    diropargs3 { dir: dir.handle(), name: name.as_bytes().into() }
}
