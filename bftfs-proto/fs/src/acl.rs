//! POSIX access control lists (acl(5)), kept as the attributes that Linux shows them as.
//!
//! A file's permission bits always say what its access ACL says of owner, mask and others: who
//! changes one changes the other. An ACL that says no more than they can is not kept.

use alloc::vec::Vec;

use crate::attributes::{FileType, Ino};
use crate::call::Credentials;
use crate::errno::Errno;
use crate::inode::{Change, View};
use crate::layout::{self, Inode, mark};
use crate::operation::{Outcome, Reply};
use crate::permissions;

/// Of the encoding (`linux/posix_acl_xattr.h`): little-endian, a version and then entries.
const VERSION: u32 = 2;
/// Bytes of an entry: tag, permissions, and the id of a user or group.
const ACE_BYTES: usize = 8;
/// Most entries. More the kernel of a FUSE mount does not pass on: they exceed 4 KiB.
const ACES_MAX: usize = 511;
/// Who an entry is for; they sort like this.
mod tag {
    pub(super) const USER_OBJ: u16 = 0x01;
    pub(super) const USER: u16 = 0x02;
    pub(super) const GROUP_OBJ: u16 = 0x04;
    pub(super) const GROUP: u16 = 0x08;
    pub(super) const MASK: u16 = 0x10;
    pub(super) const OTHER: u16 = 0x20;
}
/// The id of entries that name nobody.
const NO_ID: u32 = u32::MAX;
/// All permissions of an entry.
const RWX: u16 = 0o7;

/// Which ACL of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AclKind {
    /// Who may do what.
    Access,
    /// What files get that are made in a directory.
    Default,
}

impl AclKind {
    /// The attribute's name.
    pub(crate) const fn name(self) -> &'static [u8] {
        match self {
            Self::Access => b"system.posix_acl_access",
            Self::Default => b"system.posix_acl_default",
        }
    }

    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        [Self::Access, Self::Default].into_iter().find(|kind| kind.name() == name)
    }

    /// What marks an inode that has it.
    pub(crate) const fn mark(self) -> u16 {
        match self {
            Self::Access => mark::ACCESS_ACL,
            Self::Default => mark::DEFAULT_ACL,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ace {
    tag: u16,
    id: u32,
    permissions: u16,
}

impl Ace {
    fn decode(bytes: [u8; ACE_BYTES]) -> Option<Self> {
        let [t0, t1, p0, p1, id @ ..] = bytes;
        let (tag, permissions) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
        let id = match tag {
            tag::USER | tag::GROUP => Some(u32::from_le_bytes(id)).filter(|id| *id != NO_ID)?,
            tag::USER_OBJ | tag::GROUP_OBJ | tag::MASK | tag::OTHER => NO_ID,
            _ => return None,
        };
        (permissions <= RWX).then_some(Self { tag, id, permissions })
    }

    fn encode(self) -> [u8; ACE_BYTES] {
        let Self { tag, id, permissions } = self;
        let [[t0, t1], [p0, p1]] = [tag, permissions].map(u16::to_le_bytes);
        let [i0, i1, i2, i3] = id.to_le_bytes();
        [t0, t1, p0, p1, i0, i1, i2, i3]
    }
}

/// An access control list. Sorted, so that replicas keep the same whatever order it came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Ace>);

impl Acl {
    /// An ACL that came from elsewhere.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let (version, aces) = bytes.split_first_chunk().ok_or(Errno::EINVAL)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let (aces, []) = aces.as_chunks() else { return Err(Errno::EINVAL) };
        if aces.len() > ACES_MAX {
            return Err(Errno::E2BIG);
        }
        let aces: Option<Vec<_>> = aces.iter().copied().map(Ace::decode).collect();
        let mut acl = Self(aces.ok_or(Errno::EINVAL)?);
        acl.0.sort_unstable();
        if acl.is_valid() { Ok(acl) } else { Err(Errno::EINVAL) }
    }

    /// Whether there is one entry for each class, at most one for anybody, and a mask if needed.
    fn is_valid(&self) -> bool {
        let has = |tag| self.0.iter().any(|ace| ace.tag == tag);
        let whole = [tag::USER_OBJ, tag::GROUP_OBJ, tag::OTHER].into_iter().all(has);
        let masked = has(tag::MASK) || !has(tag::USER) && !has(tag::GROUP);
        let same = |pair: &[Ace]| (pair[0].tag, pair[0].id) == (pair[1].tag, pair[1].id);
        whole && masked && !self.0.windows(2).any(same)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let aces = self.0.iter().flat_map(|ace| ace.encode());
        VERSION.to_le_bytes().into_iter().chain(aces).collect()
    }

    /// Whether permission bits can say all of it.
    pub(crate) fn is_minimal(&self) -> bool {
        self.0.iter().all(|ace| [tag::USER_OBJ, tag::GROUP_OBJ, tag::OTHER].contains(&ace.tag))
    }

    /// What the group class gets at most: the mask, without one what the owning group gets.
    fn group_class(&self) -> u16 {
        if self.permissions(tag::MASK, NO_ID).is_some() { tag::MASK } else { tag::GROUP_OBJ }
    }

    fn permissions(&self, tag: u16, id: u32) -> Option<u16> {
        self.0.iter().find(|ace| (ace.tag, ace.id) == (tag, id)).map(|ace| ace.permissions)
    }

    /// The permission bits of a file that has it.
    pub(crate) fn mode(&self) -> u16 {
        let classes = [tag::USER_OBJ, self.group_class(), tag::OTHER];
        let bits = classes.map(|tag| self.permissions(tag, NO_ID).unwrap_or(0));
        bits[0] << 6 | bits[1] << 3 | bits[2]
    }

    /// Changes the entries that the permission bits stand for.
    fn set_mode(&mut self, mode: u16) {
        let group_class = self.group_class();
        for ace in &mut self.0 {
            match ace.tag {
                tag::USER_OBJ => ace.permissions = mode >> 6 & RWX,
                tag::OTHER => ace.permissions = mode & RWX,
                tag if tag == group_class => ace.permissions = mode >> 3 & RWX,
                _ => {}
            }
        }
    }

    /// Whether somebody who is not the owner is granted all of `mask`, if the file has group
    /// `gid`.
    pub(crate) fn grants(&self, who: &Credentials, gid: u32, mask: u8) -> bool {
        let all = |permissions: u16| permissions & u16::from(mask) == u16::from(mask);
        let limit = self.permissions(tag::MASK, NO_ID).unwrap_or(RWX);
        if let Some(permissions) = self.permissions(tag::USER, who.uid) {
            return all(permissions & limit);
        }
        let mut groups = self.0.iter().filter(|ace| match ace.tag {
            tag::GROUP_OBJ => who.is_in(gid),
            tag::GROUP => who.is_in(ace.id),
            _ => false,
        });
        match groups.next() {
            Some(first) => {
                all(first.permissions & limit) || groups.any(|ace| all(ace.permissions & limit))
            }
            None => self.permissions(tag::OTHER, NO_ID).is_some_and(all),
        }
    }
}

impl View<'_> {
    /// An ACL that the inode is marked to have.
    pub(crate) fn acl(&self, ino: Ino, kind: AclKind) -> Acl {
        let stored = self.tree.get(&layout::xattr_key(ino, kind.name()));
        // Nothing where a replica's store lacks the value: what it computes then is thrown away.
        stored.and_then(|bytes| Acl::decode(&bytes).ok()).unwrap_or_default()
    }

    /// Mode and ACLs of what is made with `mode` in a directory that has a default ACL.
    pub(crate) fn inherit_acls(
        &self,
        directory: Ino,
        kind: FileType,
        mode: u16,
    ) -> (u16, Vec<(AclKind, Vec<u8>)>) {
        let default = self.acl(directory, AclKind::Default);
        let mut access = default.clone();
        access.set_mode(access.mode() & mode);
        let mut acls = Vec::new();
        if !access.is_minimal() {
            acls.push((AclKind::Access, access.encode()));
        }
        if kind == FileType::Directory {
            acls.push((AclKind::Default, default.encode()));
        }
        (mode & !0o777 | access.mode(), acls)
    }
}

impl Change<'_> {
    /// setxattr(2) of an ACL, by somebody who may.
    pub(crate) fn set_acl(
        &mut self,
        ino: Ino,
        mut inode: Inode,
        kind: AclKind,
        value: &[u8],
    ) -> Outcome {
        let acl = Acl::decode(value)?;
        let kept = (kind == AclKind::Default || !acl.is_minimal()).then(|| acl.encode());
        if let Some(value) = &kept {
            self.view().check_xattr_room(ino, kind.name(), value.len())?;
        }
        if kind == AclKind::Access {
            let mode = inode.mode & !0o777 | acl.mode();
            inode.mode = permissions::mode_after_chmod(self.who, inode.gid, mode);
        }
        self.put_xattr(ino, &mut inode, kind.name(), kept);
        inode.ctime = self.now;
        self.save(ino, &inode);
        Ok(Reply::Done)
    }

    /// Makes the access ACL say what the mode says now.
    pub(crate) fn fit_acl(&mut self, ino: Ino, inode: &mut Inode) {
        if inode.mode & mark::ACCESS_ACL != 0 {
            let mut acl = self.view().acl(ino, AclKind::Access);
            acl.set_mode(inode.mode);
            self.put_xattr(ino, inode, AclKind::Access.name(), Some(acl.encode()));
        }
    }
}
