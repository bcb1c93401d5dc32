//! Directories: finding a name, listing names, and the rules for adding and removing one.

use alloc::vec::Vec;

use crate::attributes::{FileType, Ino};
use crate::errno::Errno;
use crate::inode::{Change, View};
use crate::layout::{
    self, COOKIE_FIRST, COOKIE_PARENT, COOKIE_SELF, Dentry, ENTRY_BYTES, Inode, NAME_BYTES_MAX,
    Slot,
};
use crate::operation::{Entry, Outcome, READDIR_BYTES_MAX, Reply, access};
use crate::permissions;

/// Bytes of struct `fuse_dirent` without the name.
const DIRENT_BYTES: usize = 24;
/// Bytes of struct `fuse_direntplus` without the name.
const DIRENTPLUS_BYTES: usize = 152;

/// ENAMETOOLONG or EINVAL if no file can have this name.
fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let odd =
        matches!(name, b"" | b"." | b"..") || name.iter().any(|&byte| matches!(byte, 0 | b'/'));
    if odd { Err(Errno::EINVAL) } else { Ok(()) }
}

/// What a name takes of the quota.
pub(crate) fn entry_bytes(name: &[u8]) -> u64 {
    ENTRY_BYTES + name.len() as u64
}

impl View<'_> {
    pub(crate) fn directory(&self, ino: Ino) -> Result<Inode, Errno> {
        let inode = self.inode(ino)?;
        if inode.is_directory() { Ok(inode) } else { Err(Errno::ENOTDIR) }
    }

    /// A directory that may be searched, and what the name in it stands for.
    pub(crate) fn find(&self, parent: Ino, name: &[u8]) -> Result<(Inode, Option<Dentry>), Errno> {
        let directory = self.directory(parent)?;
        check_name(name)?;
        self.check(parent, &directory, access::EXECUTE)?;
        Ok((directory, layout::load(self.tree, &layout::dentry_key(parent, name))))
    }

    pub(crate) fn lookup(&self, parent: Ino, name: &[u8]) -> Outcome {
        let (_, dentry) = self.find(parent, name)?;
        self.getattr(dentry.ok_or(Errno::ENOENT)?.ino)
    }

    /// A directory in which this name is free and may be made.
    pub(crate) fn find_free(&self, parent: Ino, name: &[u8]) -> Result<Inode, Errno> {
        let (directory, dentry) = self.find(parent, name)?;
        if dentry.is_some() {
            return Err(Errno::EEXIST);
        }
        self.check_addition(parent, &directory)?;
        Ok(directory)
    }

    /// What a name stands for that may be removed.
    pub(crate) fn find_victim(&self, parent: Ino, name: &[u8]) -> Result<(Dentry, Inode), Errno> {
        let (directory, dentry) = self.find(parent, name)?;
        let dentry = dentry.ok_or(Errno::ENOENT)?;
        let victim = self.inode(dentry.ino)?;
        self.check_removal((parent, &directory), &victim)?;
        Ok((dentry, victim))
    }

    /// Whether names may be added to a directory.
    pub(crate) fn check_addition(&self, ino: Ino, directory: &Inode) -> Result<(), Errno> {
        if directory.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        self.check(ino, directory, access::WRITE)
    }

    /// Whether a name of `victim` may be removed from a directory.
    pub(crate) fn check_removal(
        &self,
        (ino, directory): (Ino, &Inode),
        victim: &Inode,
    ) -> Result<(), Errno> {
        self.check(ino, directory, access::WRITE)?;
        permissions::check_sticky(self.who, directory, victim)
    }

    /// As many entries after `cookie` as fit.
    pub(crate) fn readdir(&self, ino: Ino, cookie: u64, bytes_max: u32, plus: bool) -> Outcome {
        let directory = self.directory(ino)?;
        self.check_read_open(ino, &directory)?;
        let mut room = usize::try_from(bytes_max.min(READDIR_BYTES_MAX)).unwrap_or(0);
        let header = if plus { DIRENTPLUS_BYTES } else { DIRENT_BYTES };
        let mut entries = Vec::new();
        for mut entry in self.entries_after(ino, &directory, cookie) {
            let needed = (header + entry.name.len()).next_multiple_of(8);
            if needed > room {
                // As getdents(2) says it: no progress would be taken for the end.
                let some = !entries.is_empty();
                return some.then_some(Reply::Entries { entries, end: false }).ok_or(Errno::EINVAL);
            }
            room -= needed;
            if plus {
                entry.attributes = Some(self.inode(entry.ino)?.attributes(entry.ino));
            }
            entries.push(entry);
        }
        Ok(Reply::Entries { entries, end: true })
    }

    fn entries_after(
        &self,
        ino: Ino,
        directory: &Inode,
        cookie: u64,
    ) -> impl Iterator<Item = Entry> {
        let dots = [(COOKIE_SELF, ino, "."), (COOKIE_PARENT, directory.parent, "..")];
        let dots = dots.into_iter().map(|(cookie, ino, name)| Entry {
            cookie,
            ino,
            kind: FileType::Directory,
            name: name.into(),
            attributes: None,
        });
        let from = layout::slot_key(ino, cookie.saturating_add(1).max(COOKIE_FIRST));
        let slots =
            self.tree.range(&from, &layout::slot_key(ino, u64::MAX)).map(|(key, record)| {
                let (_, cookie) = layout::split_two(key).expect("a slot's key has two numbers");
                let Slot { ino, kind, name } =
                    postcard::from_bytes(&record.read()).expect("records are as they were written");
                Entry { cookie, ino, kind, name, attributes: None }
            });
        dots.filter(move |dot| dot.cookie > cookie).chain(slots)
    }
}

impl Change<'_> {
    /// Adds a name to a directory; the quota is the caller's to account for.
    pub(crate) fn attach(&mut self, parent: Ino, name: &[u8], ino: Ino, kind: FileType) {
        let now = self.now;
        let mut cookie = 0;
        self.edit(parent, |directory| {
            cookie = directory.next_cookie;
            directory.next_cookie += 1;
            directory.size += 1;
            directory.held += entry_bytes(name);
            directory.nlink += u32::from(kind == FileType::Directory);
            (directory.mtime, directory.ctime) = (now, now);
        });
        let dentry = Dentry { ino, kind, cookie };
        layout::store(self.tree, &layout::dentry_key(parent, name), &dentry);
        self.index_name(parent, name, dentry);
        let slot = Slot { ino, kind, name: bytes::Bytes::copy_from_slice(name) };
        layout::store(self.tree, &layout::slot_key(parent, cookie), &slot);
    }

    /// Removes a name from a directory; the quota is the caller's to account for.
    pub(crate) fn detach(&mut self, parent: Ino, name: &[u8], dentry: Dentry) {
        let now = self.now;
        self.edit(parent, |directory| {
            directory.size -= 1;
            directory.held -= entry_bytes(name);
            directory.nlink -= u32::from(dentry.kind == FileType::Directory);
            (directory.mtime, directory.ctime) = (now, now);
        });
        self.unindex_name(parent, name, dentry);
        self.tree.remove(&layout::dentry_key(parent, name));
        self.tree.remove(&layout::slot_key(parent, dentry.cookie));
    }
}
