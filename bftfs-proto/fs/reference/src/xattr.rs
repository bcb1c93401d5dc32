//! Extended attributes and access control lists of the model.

use std::collections::BTreeMap;

use bftfs_fs::{Credentials, Errno, FileType, Ino, Outcome, Reply, XattrMode};
use bytes::Bytes;

use super::{Circumstances, File, Reference, in_group, may, owner, when};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";

/// Whom an entry is for, in the order of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Owner,
    User(u32),
    Group,
    OtherGroup(u32),
    Mask,
    Others,
}

/// What everybody gets.
pub(crate) type Acl = BTreeMap<Class, u16>;

fn parse(bytes: &[u8]) -> Result<Acl, Errno> {
    when(Errno::EINVAL, bytes.len() < 4)?;
    when(Errno::EOPNOTSUPP, bytes[..4] != [2, 0, 0, 0])?;
    when(Errno::EINVAL, bytes.len() % 8 != 4)?;
    when(Errno::E2BIG, bytes.len() > 4 + 511 * 8)?;
    let mut acl = Acl::new();
    for entry in bytes[4..].chunks(8) {
        let id = u32::from_le_bytes(entry[4..].try_into().unwrap());
        let named = matches!(entry[..2], [2 | 8, 0]);
        when(Errno::EINVAL, named && id == u32::MAX)?;
        let class = match entry[..2] {
            [1, 0] => Class::Owner,
            [2, 0] => Class::User(id),
            [4, 0] => Class::Group,
            [8, 0] => Class::OtherGroup(id),
            [16, 0] => Class::Mask,
            [32, 0] => Class::Others,
            _ => return Err(Errno::EINVAL),
        };
        when(Errno::EINVAL, entry[2] > 7 || entry[3] > 0)?;
        when(Errno::EINVAL, acl.insert(class, entry[2].into()).is_some())?;
    }
    let basic = [Class::Owner, Class::Group, Class::Others];
    let whole = basic.iter().all(|class| acl.contains_key(class));
    when(Errno::EINVAL, !whole || acl.len() > 3 && !acl.contains_key(&Class::Mask))?;
    Ok(acl)
}

fn show(acl: &Acl) -> Bytes {
    let mut bytes = vec![2, 0, 0, 0];
    for (class, permissions) in acl {
        let (tag, id): (u16, u32) = match class {
            Class::Owner => (1, u32::MAX),
            Class::User(id) => (2, *id),
            Class::Group => (4, u32::MAX),
            Class::OtherGroup(id) => (8, *id),
            Class::Mask => (16, u32::MAX),
            Class::Others => (32, u32::MAX),
        };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes.into()
}

fn bits(acl: &Acl) -> u16 {
    let group = acl.get(&Class::Mask).unwrap_or_else(|| &acl[&Class::Group]);
    acl[&Class::Owner] * 0o100 + group * 0o10 + acl[&Class::Others]
}

/// Whether an ACL grants all of `mask` to somebody who is not the owner of a file of group `gid`.
pub(crate) fn granted(acl: &Acl, who: &Credentials, gid: u32, mask: u8) -> bool {
    let limit = acl[&Class::Mask];
    let grants = |permissions: u16| u16::from(mask) & !permissions == 0;
    if let Some(permissions) = acl.get(&Class::User(who.uid)) {
        return grants(permissions & limit);
    }
    let mine = |class: &Class| match class {
        Class::Group => in_group(who, gid),
        Class::OtherGroup(id) => in_group(who, *id),
        _ => false,
    };
    let mine: Vec<_> = acl.iter().filter(|(class, _)| mine(class)).collect();
    if mine.is_empty() {
        return grants(acl[&Class::Others]);
    }
    mine.into_iter().any(|(_, permissions)| grants(permissions & limit))
}

impl File {
    /// The access ACL, if there is one. Three of its entries are what the mode says.
    pub(crate) fn access_acl(&self) -> Option<Acl> {
        let mut acl = self.acl.clone()?;
        let mode = self.stat.mode;
        acl.insert(Class::Owner, mode / 0o100 % 8);
        acl.insert(Class::Mask, mode / 0o10 % 8);
        acl.insert(Class::Others, mode % 8);
        Some(acl)
    }

    fn xattrs(&self) -> BTreeMap<Bytes, Bytes> {
        let acls = [(ACCESS, self.access_acl()), (DEFAULT, self.default_acl.clone())];
        let acls = acls.into_iter().filter_map(|(name, acl)| Some((name.into(), show(&acl?))));
        self.attributes.clone().into_iter().chain(acls).collect()
    }

    pub(crate) fn held_by_xattrs(&self) -> usize {
        self.xattrs().iter().map(|(name, value)| 64 + name.len() + value.len()).sum()
    }

    pub(crate) fn lose_capability(&mut self) {
        if !self.is_dir() {
            self.attributes.remove(CAPABILITY);
        }
    }

    fn set_access_acl(&mut self, acl: Acl, keep_sgid: bool) {
        let lost = if keep_sgid { 0o777 } else { 0o2777 };
        self.stat.mode = self.stat.mode & !lost | bits(&acl);
        self.acl = Some(acl).filter(|acl| acl.len() > 3);
    }

    /// What a file gets that is made in a directory with this default ACL.
    pub(crate) fn inherit(&mut self, default: &Acl) {
        self.stat.mode &= !0o777 | bits(default);
        self.acl = Some(default.clone()).filter(|acl| acl.len() > 3);
        self.default_acl = self.is_dir().then(|| default.clone());
    }
}

fn check_name(name: &[u8]) -> Result<(), Errno> {
    when(Errno::ERANGE, name.is_empty() || name.len() > 255)?;
    when(Errno::EINVAL, name.contains(&0))?;
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    when(Errno::EINVAL, spaces.contains(&name))?;
    let known = spaces.iter().any(|space| name.starts_with(space));
    when(Errno::EOPNOTSUPP, !known && ![ACCESS, DEFAULT].contains(&name))
}

fn may_change(who: &Credentials, file: &File, name: &[u8]) -> Result<(), Errno> {
    let kind = file.stat.kind;
    if name.starts_with(b"user.") {
        when(Errno::EPERM, !matches!(kind, FileType::Regular | FileType::Directory))?;
        let sticky = file.is_dir() && file.stat.mode & 0o1000 != 0;
        when(Errno::EPERM, sticky && !owner(who, file))?;
        may(who, file, 2)
    } else if name.starts_with(b"system.") {
        when(Errno::EOPNOTSUPP, kind == FileType::Symlink)?;
        when(Errno::EACCES, name == DEFAULT && !file.is_dir())?;
        when(Errno::EPERM, !owner(who, file))
    } else {
        when(Errno::EPERM, who.uid != 0)
    }
}

impl Reference {
    pub(crate) fn getxattr(&self, who: &Credentials, ino: Ino, name: &Bytes) -> Outcome {
        let file = self.file(ino)?;
        check_name(name)?;
        if name.starts_with(b"user.") {
            let kind = file.stat.kind;
            when(Errno::ENODATA, !matches!(kind, FileType::Regular | FileType::Directory))?;
            may(who, file, 4)?;
        }
        when(Errno::ENODATA, name.starts_with(b"trusted.") && who.uid != 0)?;
        let link = file.stat.kind == FileType::Symlink;
        when(Errno::EOPNOTSUPP, link && name.starts_with(b"system."))?;
        file.xattrs().remove(name).map(Reply::Data).ok_or(Errno::ENODATA)
    }

    pub(crate) fn listxattr(&self, who: &Credentials, ino: Ino) -> Outcome {
        let mut list = Vec::new();
        for name in self.file(ino)?.xattrs().keys() {
            if who.uid == 0 || !name.starts_with(b"trusted.") {
                list.extend([name, &b"\0"[..]].concat());
            }
        }
        Ok(Reply::Data(list.into()))
    }

    pub(crate) fn setxattr(
        &mut self,
        at: Circumstances<'_>,
        ino: Ino,
        (name, value): (&Bytes, &Bytes),
        mode: XattrMode,
    ) -> Outcome {
        let before = self.file(ino)?.clone();
        check_name(name)?;
        when(Errno::E2BIG, value.len() > 65536)?;
        may_change(at.who, &before, name)?;
        let exists = before.xattrs().contains_key(name);
        when(Errno::EEXIST, mode == XattrMode::Create && exists)?;
        when(Errno::ENODATA, mode == XattrMode::Replace && !exists)?;
        let mut after = before.clone();
        if name == ACCESS {
            let keep_sgid = at.who.uid == 0 || in_group(at.who, before.stat.gid);
            after.set_access_acl(parse(value)?, keep_sgid);
        } else if name == DEFAULT {
            after.default_acl = Some(parse(value)?);
        } else {
            after.attributes.insert(name.clone(), value.clone());
        }
        when(Errno::ENOSPC, after.xattrs().len() > 256)?;
        self.room(after.held().saturating_sub(before.held()), 0)?;
        after.stat.ctime = at.now;
        self.files.insert(ino.0, after);
        Ok(Reply::Done)
    }

    pub(crate) fn removexattr(&mut self, at: Circumstances<'_>, ino: Ino, name: &Bytes) -> Outcome {
        let file = self.file(ino)?;
        check_name(name)?;
        may_change(at.who, file, name)?;
        if !file.xattrs().contains_key(name) {
            return if name.starts_with(b"system.") {
                Ok(Reply::Done)
            } else {
                Err(Errno::ENODATA)
            };
        }
        let file = self.at(ino.0);
        file.attributes.remove(name);
        file.acl = file.acl.take().filter(|_| name != ACCESS);
        file.default_acl = file.default_acl.take().filter(|_| name != DEFAULT);
        file.stat.ctime = at.now;
        Ok(Reply::Done)
    }
}
