//! Making files, giving them names and taking names away.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::acl::AclKind;
use crate::attributes::{FileType, Ino};
use crate::directory::entry_bytes;
use crate::errno::Errno;
use crate::inode::{Change, View, mode_bits};
use crate::layout::{self, COOKIE_FIRST, Inode, LINKS_MAX, TARGET_BYTES_MAX, mark};
use crate::operation::{Outcome, Reply, unmasked};
use crate::permissions;
use crate::xattr::xattr_bytes;

/// What to make.
#[derive(Clone, Copy)]
struct New<'a> {
    kind: FileType,
    mode: u32,
    rdev: u32,
    target: &'a [u8],
}

/// EMLINK if a directory cannot have one more subdirectory.
pub(crate) fn check_subdirectory(directory: &Inode, kind: FileType) -> Result<(), Errno> {
    let full = kind == FileType::Directory && directory.nlink == u32::MAX;
    if full { Err(Errno::EMLINK) } else { Ok(()) }
}

impl View<'_> {
    /// Group, mode and ACLs of what is made in a directory.
    fn inherit(
        &self,
        parent: Ino,
        directory: &Inode,
        new: &New<'_>,
    ) -> (u32, u16, Vec<(AclKind, Vec<u8>)>) {
        let by_acl = directory.mode & mark::DEFAULT_ACL != 0 && new.kind != FileType::Symlink;
        let mode = mode_bits(if by_acl { unmasked(new.mode) } else { new.mode });
        let (gid, mode) = permissions::inherit(self.who, directory, new.kind, mode);
        let (mode, acls) =
            if by_acl { self.inherit_acls(parent, new.kind, mode) } else { (mode, Vec::new()) };
        (gid, mode, acls)
    }
}

impl Change<'_> {
    pub(crate) fn mknod(
        &mut self,
        parent: Ino,
        name: &[u8],
        kind: FileType,
        mode: u32,
        rdev: u32,
    ) -> Outcome {
        let device = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
        match kind {
            FileType::Symlink => return Err(Errno::EINVAL),
            FileType::Directory => return Err(Errno::EPERM),
            _ if device && !self.who.is_root() => return Err(Errno::EPERM),
            _ => {}
        }
        let rdev = if device { rdev } else { 0 };
        self.make(parent, name, New { kind, mode, rdev, target: &[] })
    }

    pub(crate) fn mkdir(&mut self, parent: Ino, name: &[u8], mode: u32) -> Outcome {
        let kind = FileType::Directory;
        self.make(parent, name, New { kind, mode, rdev: 0, target: &[] })
    }

    pub(crate) fn symlink(&mut self, parent: Ino, name: &[u8], target: &Bytes) -> Outcome {
        match target.len() {
            0 => return Err(Errno::ENOENT),
            len if len > TARGET_BYTES_MAX => return Err(Errno::ENAMETOOLONG),
            _ if target.contains(&0) => return Err(Errno::EINVAL),
            _ => {}
        }
        self.make(parent, name, New { kind: FileType::Symlink, mode: 0o777, rdev: 0, target })
    }

    /// open(2) with `O_CREAT`.
    pub(crate) fn create(
        &mut self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        exclusive: bool,
        mask: u8,
        truncate: bool,
    ) -> Outcome {
        let made = self.mknod(parent, name, FileType::Regular, mode, 0);
        if made != Err(Errno::EEXIST) || exclusive {
            return made;
        }
        let (_, dentry) = self.view().find(parent, name)?;
        let dentry = dentry.ok_or(Errno::ENOENT)?;
        match dentry.kind {
            FileType::Regular => self.open(dentry.ino, mask, truncate),
            FileType::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::ESTALE),
        }
    }

    fn make(&mut self, parent: Ino, name: &[u8], new: New<'_>) -> Outcome {
        let directory = self.view().find_free(parent, name)?;
        check_subdirectory(&directory, new.kind)?;
        let (gid, mode, acls) = self.view().inherit(parent, &directory, &new);
        let held = new.target.len() as u64;
        let of_acls = acls.iter().map(|(kind, acl)| xattr_bytes(kind.name(), acl.len()));
        let needed = held + entry_bytes(name) + of_acls.sum::<u64>();
        self.view().check_room(needed, 1)?;

        let ino = self.allocate(held + entry_bytes(name));
        let mut inode = self.new_inode(ino, parent, (gid, mode), new);
        for (kind, acl) in acls {
            self.put_xattr(ino, &mut inode, kind.name(), Some(acl));
        }
        self.save(ino, &inode);
        if new.kind == FileType::Symlink {
            self.tree.insert(&layout::target_key(ino), new.target);
        }
        self.attach(parent, name, ino, new.kind);
        Ok(Reply::Attributes(inode.attributes(ino)))
    }

    fn new_inode(&self, ino: Ino, parent: Ino, (gid, mode): (u32, u16), new: New<'_>) -> Inode {
        let is_directory = new.kind == FileType::Directory;
        Inode {
            kind: new.kind,
            mode,
            uid: self.who.uid,
            gid,
            nlink: if is_directory { 2 } else { 1 },
            rdev: new.rdev,
            size: new.target.len() as u64,
            held: new.target.len() as u64,
            fork: if new.kind == FileType::Regular { ino.0 } else { 0 },
            parent: if is_directory { parent } else { Ino(0) },
            next_cookie: if is_directory { COOKIE_FIRST } else { 0 },
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
        }
    }

    pub(crate) fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Outcome {
        let view = self.view();
        let mut inode = view.inode(ino)?;
        view.find_free(parent, name)?;
        match inode.nlink {
            _ if inode.is_directory() => return Err(Errno::EPERM),
            0 => return Err(Errno::ENOENT),
            LINKS_MAX.. => return Err(Errno::EMLINK),
            _ => {}
        }
        view.check_room(entry_bytes(name), 0)?;

        inode.nlink += 1;
        inode.ctime = self.now;
        self.save(ino, &inode);
        self.edit_superblock(|superblock| superblock.used_bytes += entry_bytes(name));
        self.attach(parent, name, ino, inode.kind);
        Ok(Reply::Attributes(inode.attributes(ino)))
    }

    pub(crate) fn unlink(&mut self, parent: Ino, name: &[u8], keep: bool) -> Outcome {
        let (dentry, victim) = self.view().find_victim(parent, name)?;
        if victim.is_directory() {
            return Err(Errno::EISDIR);
        }
        self.detach(parent, name, dentry);
        self.edit_superblock(|superblock| superblock.used_bytes -= entry_bytes(name));
        Ok(Reply::Removed { kept: self.lose_name(dentry.ino, parent, keep) })
    }

    pub(crate) fn rmdir(&mut self, parent: Ino, name: &[u8], keep: bool) -> Outcome {
        let (dentry, victim) = self.view().find_victim(parent, name)?;
        match victim.size {
            _ if !victim.is_directory() => return Err(Errno::ENOTDIR),
            0 => {}
            _ => return Err(Errno::ENOTEMPTY),
        }
        self.detach(parent, name, dentry);
        self.edit_superblock(|superblock| superblock.used_bytes -= entry_bytes(name));
        Ok(Reply::Removed { kept: self.lose_name(dentry.ino, parent, keep) })
    }
}
