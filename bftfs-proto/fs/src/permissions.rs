//! Who may do what: the rules of POSIX as Linux applies them, and NFS's for open files.
//!
//! A server keeps no open files, so it cannot see that a file was opened before its mode changed.
//! As NFS servers do, it lets the owner of a file always read and write it through an open file,
//! and lets whoever may execute it read it.

use crate::acl::AclKind;
use crate::attributes::{FileType, Ino, SetTime};
use crate::call::Credentials;
use crate::errno::Errno;
use crate::inode::View;
use crate::layout::{Inode, mark};
use crate::operation::{SetAttributes, access};

/// Set-user-ID.
pub(crate) const S_ISUID: u16 = 0o4000;
/// Set-group-ID; on a directory: files made in it get its group.
pub(crate) const S_ISGID: u16 = 0o2000;
/// Sticky; on a directory: files in it are removed by their owners only.
pub(crate) const S_ISVTX: u16 = 0o1000;
const S_IXGRP: u16 = 0o010;

impl Credentials {
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(crate) fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    pub(crate) fn owns(&self, inode: &Inode) -> bool {
        self.is_root() || self.uid == inode.uid
    }

    /// Whether set-group-ID on a file of this group may stay when this caller touches it.
    fn may_keep_sgid(&self, gid: u32) -> bool {
        self.is_root() || self.is_in(gid)
    }
}

impl View<'_> {
    /// Whether permission bits and ACL grant all of `mask`: the algorithm of acl(5).
    fn grants(&self, ino: Ino, inode: &Inode, mask: u8) -> bool {
        let who = self.who;
        if who.is_root() {
            return mask & access::EXECUTE == 0 || inode.is_directory() || inode.mode & 0o111 != 0;
        }
        let shift = match () {
            () if who.uid == inode.uid => 6,
            () if inode.mode & mark::ACCESS_ACL != 0 => {
                return self.acl(ino, AclKind::Access).grants(who, inode.gid, mask);
            }
            () if who.is_in(inode.gid) => 3,
            () => 0,
        };
        (inode.mode >> shift) & u16::from(mask) == u16::from(mask)
    }

    /// access(2): EACCES unless all of `mask` is granted.
    pub(crate) fn check(&self, ino: Ino, inode: &Inode, mask: u8) -> Result<(), Errno> {
        if self.grants(ino, inode, mask) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// read(2) of an open file.
    pub(crate) fn check_read_open(&self, ino: Ino, inode: &Inode) -> Result<(), Errno> {
        let granted = self.who.owns(inode)
            || self.grants(ino, inode, access::READ)
            || (inode.kind == FileType::Regular && self.grants(ino, inode, access::EXECUTE));
        if granted { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// write(2) to an open file.
    pub(crate) fn check_write_open(&self, ino: Ino, inode: &Inode) -> Result<(), Errno> {
        if self.who.owns(inode) { Ok(()) } else { self.check(ino, inode, access::WRITE) }
    }

    /// chmod(2), chown(2), truncate(2), utimensat(2): whether all that is asked may be done.
    pub(crate) fn check_set(
        &self,
        ino: Ino,
        inode: &Inode,
        set: &SetAttributes,
        open: bool,
    ) -> Result<(), Errno> {
        let who = self.who;
        let owns = who.owns(inode);
        if set.mode.is_some() && !owns {
            return Err(Errno::EPERM);
        }
        if set.uid.is_some_and(|uid| !(who.is_root() || owns && uid == inode.uid)) {
            return Err(Errno::EPERM);
        }
        let may_give = |gid| who.is_root() || owns && (gid == inode.gid || who.is_in(gid));
        if set.gid.is_some_and(|gid| !may_give(gid)) {
            return Err(Errno::EPERM);
        }
        if set.size.is_some() {
            if open {
                self.check_write_open(ino, inode)
            } else {
                self.check(ino, inode, access::WRITE)
            }?;
        }
        match (set.atime, set.mtime) {
            (None, None) => Ok(()),
            // A cut moves mtime anyway.
            (None, Some(SetTime::Now)) if set.size.is_some() => Ok(()),
            _ if owns => Ok(()),
            (Some(SetTime::Now), Some(SetTime::Now)) => self.check(ino, inode, access::WRITE),
            _ => Err(Errno::EPERM),
        }
    }
}

/// The sticky bit: whether a name of `victim` may be removed from `directory`.
pub(crate) fn check_sticky(
    who: &Credentials,
    directory: &Inode,
    victim: &Inode,
) -> Result<(), Errno> {
    let free = directory.mode & S_ISVTX == 0 || who.owns(directory) || who.owns(victim);
    if free { Ok(()) } else { Err(Errno::EPERM) }
}

/// The mode after chown(2), by anybody: a program must not run with another owner's rights.
pub(crate) fn mode_after_chown(who: &Credentials, inode: &Inode) -> u16 {
    if inode.is_directory() {
        return inode.mode;
    }
    let keeps_sgid = inode.mode & S_IXGRP == 0 && who.may_keep_sgid(inode.gid);
    inode.mode & !(S_ISUID | if keeps_sgid { 0 } else { S_ISGID })
}

/// The mode after chmod(2) to `mode`.
pub(crate) fn mode_after_chmod(who: &Credentials, gid: u32, mode: u16) -> u16 {
    if who.may_keep_sgid(gid) { mode } else { mode & !S_ISGID }
}

/// The mode after the contents changed: the superuser is trusted with programs.
pub(crate) fn mode_after_write(who: &Credentials, inode: &Inode) -> u16 {
    if who.is_root() { inode.mode } else { mode_after_chown(who, inode) }
}

/// Group and mode of a file that is made in `directory` with permission bits `mode`.
pub(crate) fn inherit(
    who: &Credentials,
    directory: &Inode,
    kind: FileType,
    mode: u16,
) -> (u32, u16) {
    let inherits = directory.mode & S_ISGID != 0;
    let gid = if inherits { directory.gid } else { who.gid };
    let mode = match kind {
        // mkdir(2) takes no set-ID bits; set-group-ID spreads.
        FileType::Directory => (mode & 0o1777) | if inherits { S_ISGID } else { 0 },
        _ if mode & S_IXGRP != 0 => mode_after_chmod(who, gid, mode),
        _ => mode,
    };
    (gid, mode)
}
