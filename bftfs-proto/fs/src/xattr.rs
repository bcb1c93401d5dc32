//! Extended attributes: names with values that a file has beside its contents (xattr(7)).

use alloc::vec::Vec;

use bytes::Bytes;

use crate::acl::AclKind;
use crate::attributes::{FileType, Ino};
use crate::directory::entry_bytes;
use crate::errno::Errno;
use crate::inode::{Change, View};
use crate::layout::{self, Inode, NAME_BYTES_MAX, mark};
use crate::operation::{Outcome, Reply, XattrMode, access};
use crate::permissions::S_ISVTX;

/// Longest value, in bytes (`XATTR_SIZE_MAX`).
pub(crate) const VALUE_BYTES_MAX: usize = 64 << 10;
/// Most attributes of a file. A list of so many, of whatever names, is what listxattr(2) can give
/// (`XATTR_LIST_MAX`).
pub(crate) const XATTRS_MAX: usize = 256;
/// What gives a program rights of the superuser (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";

/// Whose an attribute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
    Acl(AclKind),
}

const USER: &[u8] = b"user.";
const TRUSTED: &[u8] = b"trusted.";
const SECURITY: &[u8] = b"security.";

impl Namespace {
    fn of(name: &[u8]) -> Result<Self, Errno> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Errno::ERANGE);
        }
        if name.contains(&0) {
            return Err(Errno::EINVAL);
        }
        if let Some(kind) = AclKind::of(name) {
            return Ok(Self::Acl(kind));
        }
        let all = [(USER, Self::User), (TRUSTED, Self::Trusted), (SECURITY, Self::Security)];
        let known = all.into_iter().find(|(prefix, _)| name.starts_with(prefix));
        let (prefix, namespace) = known.ok_or(Errno::EOPNOTSUPP)?;
        if name == prefix { Err(Errno::EINVAL) } else { Ok(namespace) }
    }
}

/// What marks an inode that has this attribute.
pub(crate) fn mark_of(name: &[u8]) -> u16 {
    let capability = if name == CAPABILITY { mark::CAPABILITY } else { 0 };
    AclKind::of(name).map_or(capability, AclKind::mark)
}

/// What an attribute takes of the quota.
pub(crate) fn xattr_bytes(name: &[u8], len: usize) -> u64 {
    entry_bytes(name) + len as u64
}

/// Whether a file of this kind has attributes of users (xattr(7)): the permission bits of others
/// are about something else.
fn has_user_attributes(inode: &Inode) -> bool {
    matches!(inode.kind, FileType::Regular | FileType::Directory)
}

impl View<'_> {
    pub(crate) fn getxattr(&self, ino: Ino, name: &[u8]) -> Outcome {
        let inode = self.inode(ino)?;
        match Namespace::of(name)? {
            Namespace::User if !has_user_attributes(&inode) => return Err(Errno::ENODATA),
            Namespace::User => self.check(ino, &inode, access::READ)?,
            Namespace::Trusted if !self.who.is_root() => return Err(Errno::ENODATA),
            Namespace::Acl(_) if inode.kind == FileType::Symlink => return Err(Errno::EOPNOTSUPP),
            Namespace::Trusted | Namespace::Security | Namespace::Acl(_) => {}
        }
        let value = self.tree.get(&layout::xattr_key(ino, name)).ok_or(Errno::ENODATA)?;
        Ok(Reply::Data(Bytes::copy_from_slice(&value)))
    }

    /// The names of all attributes that the caller may know of, each with a NUL behind it.
    pub(crate) fn listxattr(&self, ino: Ino) -> Outcome {
        self.inode(ino)?;
        let mut names = Vec::new();
        for (key, _) in self.tree.prefix(&layout::xattrs_key(ino)) {
            let (_, name) = layout::split_named(key).expect("an attribute's key has a name");
            if self.who.is_root() || !name.starts_with(TRUSTED) {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        Ok(Reply::Data(names.into()))
    }

    /// Whether the caller may set and remove such attributes of this file.
    fn check_xattr_change(
        &self,
        ino: Ino,
        inode: &Inode,
        namespace: Namespace,
    ) -> Result<(), Errno> {
        let owns = self.who.owns(inode);
        let sticky = inode.is_directory() && inode.mode & S_ISVTX != 0;
        match namespace {
            Namespace::User if !has_user_attributes(inode) => Err(Errno::EPERM),
            Namespace::User if sticky && !owns => Err(Errno::EPERM),
            Namespace::User => self.check(ino, inode, access::WRITE),
            Namespace::Trusted | Namespace::Security if !self.who.is_root() => Err(Errno::EPERM),
            Namespace::Acl(_) if inode.kind == FileType::Symlink => Err(Errno::EOPNOTSUPP),
            Namespace::Acl(AclKind::Default) if !inode.is_directory() => Err(Errno::EACCES),
            Namespace::Acl(_) if !owns => Err(Errno::EPERM),
            Namespace::Trusted | Namespace::Security | Namespace::Acl(_) => Ok(()),
        }
    }

    /// What an attribute takes of the quota now: 0 if there is none.
    fn held_by_xattr(&self, ino: Ino, name: &[u8]) -> u64 {
        let entry = self.tree.entry(&layout::xattr_key(ino, name));
        entry.map_or(0, |value| xattr_bytes(name, value.len()))
    }

    /// What all attributes of an inode take of the quota.
    pub(crate) fn held_by_xattrs(&self, ino: Ino) -> u64 {
        let xattrs = self.tree.prefix(&layout::xattrs_key(ino));
        let size = |(key, value): (&[u8], bftfs_state::Entry<'_>)| {
            let (_, name) = layout::split_named(key).expect("an attribute's key has a name");
            xattr_bytes(name, value.len())
        };
        xattrs.map(size).sum()
    }

    /// ENOSPC if there is no room for an attribute with a value so long.
    pub(crate) fn check_xattr_room(&self, ino: Ino, name: &[u8], len: usize) -> Result<(), Errno> {
        let old = self.held_by_xattr(ino, name);
        let last = self.tree.prefix(&layout::xattrs_key(ino)).nth(XATTRS_MAX - 1);
        if old == 0 && last.is_some() {
            return Err(Errno::ENOSPC);
        }
        self.check_room(xattr_bytes(name, len).saturating_sub(old), 0)
    }
}

impl Change<'_> {
    pub(crate) fn setxattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &Bytes,
        mode: XattrMode,
    ) -> Outcome {
        let view = self.view();
        let mut inode = view.inode(ino)?;
        let namespace = Namespace::of(name)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        view.check_xattr_change(ino, &inode, namespace)?;
        match (mode, view.held_by_xattr(ino, name)) {
            (XattrMode::Create, 1..) => return Err(Errno::EEXIST),
            (XattrMode::Replace, 0) => return Err(Errno::ENODATA),
            _ => {}
        }
        if let Namespace::Acl(kind) = namespace {
            return self.set_acl(ino, inode, kind, value);
        }
        view.check_xattr_room(ino, name, value.len())?;
        self.put_xattr(ino, &mut inode, name, Some(Vec::from(&value[..])));
        inode.ctime = self.now;
        self.save(ino, &inode);
        Ok(Reply::Done)
    }

    pub(crate) fn removexattr(&mut self, ino: Ino, name: &[u8]) -> Outcome {
        let view = self.view();
        let mut inode = view.inode(ino)?;
        let namespace = Namespace::of(name)?;
        view.check_xattr_change(ino, &inode, namespace)?;
        match (namespace, view.held_by_xattr(ino, name)) {
            // A file without ACL is what was asked for.
            (Namespace::Acl(_), 0) => return Ok(Reply::Done),
            (_, 0) => return Err(Errno::ENODATA),
            _ => {}
        }
        self.put_xattr(ino, &mut inode, name, None);
        inode.ctime = self.now;
        self.save(ino, &inode);
        Ok(Reply::Done)
    }

    /// Sets or removes an attribute; the room was asked for, and the inode is the caller's to save.
    pub(crate) fn put_xattr(
        &mut self,
        ino: Ino,
        inode: &mut Inode,
        name: &[u8],
        value: Option<Vec<u8>>,
    ) {
        let old = self.view().held_by_xattr(ino, name);
        let new = value.as_ref().map_or(0, |value| xattr_bytes(name, value.len()));
        let key = layout::xattr_key(ino, name);
        if let Some(value) = value {
            inode.mode |= mark_of(name);
            self.tree.insert(&key, value);
        } else {
            inode.mode &= !mark_of(name);
            self.tree.remove(&key);
        }
        self.resize_held(inode, new, old);
    }

    /// A program that is changed or given away loses the capabilities of its file, whoever does it.
    pub(crate) fn lose_capability(&mut self, ino: Ino, inode: &mut Inode) {
        if inode.mode & mark::CAPABILITY != 0 && !inode.is_directory() {
            self.put_xattr(ino, inode, CAPABILITY, None);
        }
    }
}
