//! Inodes: what is asked of one and changed in it, and the agreed quota.

use alloc::vec::Vec;

use bftfs_proto::service::Nudge;
use bftfs_proto::types::SessionId;
use bftfs_state::Tree;
use bytes::Bytes;

use crate::attributes::{FileType, Ino, SetTime, Statistics, Time};
use crate::call::Credentials;
use crate::errno::Errno;
use crate::layout::{
    self, BLOCK_BYTES, FILE_BYTES_MAX, Garbage, Inode, NAME_BYTES_MAX, SUPERBLOCK_KEY, Superblock,
    mark,
};
use crate::operation::{Outcome, Reply, SetAttributes, Touch, access};
use crate::permissions;

/// The state as a caller may see it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) who: &'a Credentials,
    pub(crate) session: SessionId,
}

/// The state while an operation changes it.
///
/// A method that can refuse does so before it changes anything.
pub(crate) struct Change<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) who: &'a Credentials,
    pub(crate) now: Time,
    pub(crate) session: SessionId,
    /// Blocks and attributes that this operation may still remove; others wait for the next ones.
    pub(crate) removals: usize,
    /// Whom it gave what they wait for.
    pub(crate) nudges: &'a mut Vec<Nudge>,
}

/// How old a time of last access may become under [`Touch::Relative`], as on Linux.
const ATIME_AGE_SECS: i64 = 24 * 60 * 60;

/// Permission bits that came from elsewhere.
pub(crate) fn mode_bits(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

fn resolve(set: SetTime, now: Time) -> Time {
    match set {
        SetTime::Now => now,
        SetTime::At(time) => time,
    }
}

fn check_time(set: Option<SetTime>) -> Result<(), Errno> {
    match set {
        Some(SetTime::At(time)) if time.nsec >= 1_000_000_000 => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// EISDIR or EINVAL unless it is a regular file.
pub(crate) fn check_regular(inode: &Inode) -> Result<(), Errno> {
    match inode.kind {
        FileType::Regular => Ok(()),
        FileType::Directory => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}

impl View<'_> {
    pub(crate) fn superblock(&self) -> Superblock {
        layout::load(self.tree, SUPERBLOCK_KEY).expect("a file system has a superblock")
    }

    /// An inode that a client named.
    pub(crate) fn inode(&self, ino: Ino) -> Result<Inode, Errno> {
        layout::load(self.tree, &layout::inode_key(ino)).ok_or(Errno::ESTALE)
    }

    /// Whether whoever reads a file now moves its time of last access (relatime: mount(8)).
    pub(crate) fn is_due(&self, ino: Ino, touch: Touch, now: Time) -> bool {
        let Ok(inode) = self.inode(ino) else { return false };
        match touch {
            Touch::Never => false,
            Touch::Always => true,
            Touch::Relative => {
                inode.atime <= inode.mtime.max(inode.ctime)
                    || now.sec.saturating_sub(inode.atime.sec) >= ATIME_AGE_SECS
            }
        }
    }

    /// ENOSPC if these would exceed the quota.
    pub(crate) fn check_room(&self, bytes: u64, inodes: u64) -> Result<(), Errno> {
        let superblock = self.superblock();
        let bytes = superblock.used_bytes.checked_add(bytes);
        let inodes = superblock.used_inodes.checked_add(inodes);
        let fits = bytes.is_some_and(|bytes| bytes <= superblock.capacity_bytes)
            && inodes.is_some_and(|inodes| inodes <= superblock.capacity_inodes);
        if fits { Ok(()) } else { Err(Errno::ENOSPC) }
    }

    pub(crate) fn getattr(&self, ino: Ino) -> Outcome {
        Ok(Reply::Attributes(self.inode(ino)?.attributes(ino)))
    }

    pub(crate) fn access(&self, ino: Ino, mask: u8) -> Outcome {
        if mask > access::READ | access::WRITE | access::EXECUTE {
            return Err(Errno::EINVAL);
        }
        self.check(ino, &self.inode(ino)?, mask)?;
        Ok(Reply::Done)
    }

    /// open(2) of what exists.
    pub(crate) fn open(&self, ino: Ino, mask: u8, truncate: bool) -> Outcome {
        let inode = self.inode(ino)?;
        let mask = if truncate { mask | access::WRITE } else { mask };
        if inode.is_directory() && mask & access::WRITE != 0 {
            return Err(Errno::EISDIR);
        }
        if truncate {
            check_regular(&inode)?;
        }
        self.access(ino, mask)?;
        Ok(Reply::Attributes(inode.attributes(ino)))
    }

    pub(crate) fn readlink(&self, ino: Ino) -> Outcome {
        self.inode(ino)?;
        let target = self.tree.get(&layout::target_key(ino)).ok_or(Errno::EINVAL)?;
        Ok(Reply::Target(Bytes::copy_from_slice(&target)))
    }

    pub(crate) fn statfs(&self) -> Outcome {
        let Superblock { capacity_bytes, capacity_inodes, used_bytes, used_inodes, .. } =
            self.superblock();
        Ok(Reply::Statistics(Statistics {
            capacity_bytes,
            used_bytes,
            capacity_inodes,
            used_inodes,
            block_bytes: u32::try_from(BLOCK_BYTES).expect("a block is small"),
            name_bytes_max: u32::try_from(NAME_BYTES_MAX).expect("a name is short"),
        }))
    }
}

impl Change<'_> {
    pub(crate) fn view(&self) -> View<'_> {
        View { tree: self.tree, who: self.who, session: self.session }
    }

    pub(crate) fn save(&mut self, ino: Ino, inode: &Inode) {
        layout::store(self.tree, &layout::inode_key(ino), inode);
    }

    /// Changes an inode that is known to exist.
    pub(crate) fn edit(&mut self, ino: Ino, change: impl FnOnce(&mut Inode)) {
        let mut inode = self.view().inode(ino).expect("the inode was seen by this operation");
        change(&mut inode);
        self.save(ino, &inode);
    }

    pub(crate) fn edit_superblock(&mut self, change: impl FnOnce(&mut Superblock)) {
        let mut superblock = self.view().superblock();
        change(&mut superblock);
        layout::store(self.tree, SUPERBLOCK_KEY, &superblock);
    }

    /// Takes an inode and bytes from the quota, and a number that no inode or fork ever had.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Ino {
        let mut ino = Ino(0);
        self.edit_superblock(|superblock| {
            ino = Ino(superblock.next_number);
            superblock.next_number += 1;
            superblock.used_inodes += 1;
            superblock.used_bytes += bytes;
        });
        ino
    }

    /// Moves the time of last access.
    pub(crate) fn touch(&mut self, ino: Ino) {
        let now = self.now;
        self.edit(ino, |inode| inode.atime = now);
    }

    /// open(2) of what exists.
    pub(crate) fn open(&mut self, ino: Ino, mask: u8, truncate: bool) -> Outcome {
        let reply = self.view().open(ino, mask, truncate)?;
        if !truncate {
            return Ok(reply);
        }
        self.setattr(ino, &SetAttributes { size: Some(0), ..SetAttributes::default() }, false)
    }

    pub(crate) fn setattr(&mut self, ino: Ino, set: &SetAttributes, open: bool) -> Outcome {
        let mut inode = self.view().inode(ino)?;
        check_time(set.atime)?;
        check_time(set.mtime)?;
        if let Some(size) = set.size {
            check_regular(&inode)?;
            if size > FILE_BYTES_MAX {
                return Err(Errno::EFBIG);
            }
        }
        self.view().check_set(ino, &inode, set, open)?;
        if *set != SetAttributes::default() {
            self.apply(ino, &mut inode, set);
            self.save(ino, &inode);
        }
        Ok(Reply::Attributes(inode.attributes(ino)))
    }

    /// What a file loses when its contents change.
    pub(crate) fn lose_privileges(&mut self, ino: Ino, inode: &mut Inode) {
        inode.mode = permissions::mode_after_write(self.who, inode);
        self.lose_capability(ino, inode);
    }

    fn apply(&mut self, ino: Ino, inode: &mut Inode, set: &SetAttributes) {
        if let Some(size) = set.size {
            self.cut(ino, inode, size);
            self.lose_privileges(ino, inode);
            inode.mtime = self.now;
        }
        if set.uid.is_some() || set.gid.is_some() {
            inode.mode = permissions::mode_after_chown(self.who, inode);
            self.lose_capability(ino, inode);
            inode.uid = set.uid.unwrap_or(inode.uid);
            inode.gid = set.gid.unwrap_or(inode.gid);
        }
        if let Some(mode) = set.mode {
            let mode = mode_bits(mode) | inode.mode & mark::ALL;
            inode.mode = permissions::mode_after_chmod(self.who, inode.gid, mode);
            self.fit_acl(ino, inode);
        }
        inode.atime = set.atime.map_or(inode.atime, |time| resolve(time, self.now));
        inode.mtime = set.mtime.map_or(inode.mtime, |time| resolve(time, self.now));
        inode.ctime = self.now;
    }

    /// Takes a name in `directory` from an inode. Without names it is freed, or kept for this
    /// session, which is then told, and for others that may have it open.
    pub(crate) fn lose_name(&mut self, ino: Ino, directory: Ino, keep: bool) -> Option<Ino> {
        let mut inode = self.view().inode(ino).expect("a name stands for an inode");
        inode.nlink = if inode.is_directory() { 0 } else { inode.nlink - 1 };
        inode.ctime = self.now;
        let is_last = inode.nlink == 0;
        let concerns_others = is_last && self.view().concerns_others(&inode);
        if is_last && !keep && !concerns_others {
            self.free(ino, &inode);
            return None;
        }
        if inode.is_directory() {
            inode.parent = ino;
        }
        self.save(ino, &inode);
        let kept = (is_last && keep).then_some(ino);
        if kept.is_some() {
            self.tree.insert(&layout::orphan_key(self.session, ino), Vec::new());
        }
        if concerns_others {
            self.enter_limbo(ino, directory, keep);
        }
        kept
    }

    /// Removes an inode without names and all that it has.
    pub(crate) fn free(&mut self, ino: Ino, inode: &Inode) {
        self.tree.remove(&layout::inode_key(ino));
        self.discard(Garbage::Xattrs(ino));
        self.drop_locks(ino);
        match inode.kind {
            FileType::Symlink => {
                self.tree.remove(&layout::target_key(ino));
            }
            FileType::Regular if inode.held > 0 => self.discard(Garbage::Fork(inode.fork)),
            _ => {}
        }
        self.edit_superblock(|superblock| {
            superblock.used_inodes -= 1;
            superblock.used_bytes -= inode.held;
        });
    }
}
