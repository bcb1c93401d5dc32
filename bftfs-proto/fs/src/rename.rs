//! Moving names (renameat2(2)).

use crate::attributes::{FileType, Ino, ROOT};
use crate::directory::entry_bytes;
use crate::errno::Errno;
use crate::inode::{Change, View};
use crate::layout::{Dentry, Inode};
use crate::names::check_subdirectory;
use crate::operation::{Outcome, RenameMode, Reply, access};

/// Directories that may be above one that a directory is moved to.
const DEPTH_MAX: usize = 1 << 14;

/// A place for a name, and what is there.
struct Spot<'a> {
    parent: Ino,
    name: &'a [u8],
    directory: Inode,
    there: Option<(Dentry, Inode)>,
}

impl View<'_> {
    fn spot<'a>(&self, parent: Ino, name: &'a [u8]) -> Result<Spot<'a>, Errno> {
        let (directory, dentry) = self.find(parent, name)?;
        let there = match dentry {
            Some(dentry) => Some((dentry, self.inode(dentry.ino)?)),
            None => None,
        };
        Ok(Spot { parent, name, directory, there })
    }

    /// Whether `inode` may leave `from` for `to`.
    fn check_move(
        &self,
        (dentry, inode): (Dentry, &Inode),
        from: &Spot<'_>,
        to: &Spot<'_>,
    ) -> Result<(), Errno> {
        self.check_removal((from.parent, &from.directory), inode)?;
        if !inode.is_directory() || from.parent == to.parent {
            return Ok(());
        }
        self.check_not_within(to.parent, dentry.ino)?;
        // Its `..` changes.
        self.check(dentry.ino, inode, access::WRITE)
    }

    /// EINVAL if `directory` is `above` or somewhere within it.
    fn check_not_within(&self, mut directory: Ino, above: Ino) -> Result<(), Errno> {
        for _ in 0..DEPTH_MAX {
            if directory == above {
                return Err(Errno::EINVAL);
            }
            let parent = self.directory(directory)?.parent;
            if directory == ROOT || parent == directory {
                return Ok(());
            }
            directory = parent;
        }
        Err(Errno::ELOOP)
    }

    /// Whether a file of this kind may take the place of what is at `to`.
    fn check_replace(&self, kind: FileType, to: &Spot<'_>) -> Result<(), Errno> {
        let Some((_, victim)) = &to.there else {
            return self.check_addition(to.parent, &to.directory);
        };
        self.check_removal((to.parent, &to.directory), victim)?;
        match (kind == FileType::Directory, victim.is_directory()) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            (true, true) if victim.size > 0 => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }
}

impl Change<'_> {
    pub(crate) fn rename(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        keep: bool,
    ) -> Outcome {
        let view = self.view();
        let from = view.spot(from.0, from.1)?;
        let to = view.spot(to.0, to.1)?;
        let (dentry, inode) = from.there.ok_or(Errno::ENOENT)?;
        match (mode, to.there) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            // Two names of one file: POSIX leaves both.
            (_, Some((there, _))) if there.ino == dentry.ino => {
                return Ok(Reply::Removed { kept: None });
            }
            _ => {}
        }
        view.check_move((dentry, &inode), &from, &to)?;
        if let (RenameMode::Exchange, Some((there, other))) = (mode, to.there) {
            view.check_move((there, &other), &to, &from)?;
            check_subdirectory(&from.directory, other.kind)?;
        } else {
            view.check_replace(inode.kind, &to)?;
        }
        check_subdirectory(&to.directory, inode.kind)?;
        let (old, new) = (entry_bytes(from.name), entry_bytes(to.name));
        if to.there.is_none() {
            view.check_room(new.saturating_sub(old), 0)?;
        }
        Ok(Reply::Removed { kept: self.apply_rename(dentry, &from, &to, mode, keep) })
    }

    fn apply_rename(
        &mut self,
        dentry: Dentry,
        from: &Spot<'_>,
        to: &Spot<'_>,
        mode: RenameMode,
        keep: bool,
    ) -> Option<Ino> {
        self.detach(from.parent, from.name, dentry);
        if let Some((there, _)) = to.there {
            self.detach(to.parent, to.name, there);
        }
        self.move_to(dentry, to);
        let Some((there, _)) = to.there else {
            let (old, new) = (entry_bytes(from.name), entry_bytes(to.name));
            self.edit_superblock(|superblock| {
                superblock.used_bytes = superblock.used_bytes + new - old;
            });
            return None;
        };
        if mode == RenameMode::Exchange {
            self.move_to(there, from);
            return None;
        }
        self.edit_superblock(|superblock| superblock.used_bytes -= entry_bytes(from.name));
        self.lose_name(there.ino, to.parent, keep)
    }

    fn move_to(&mut self, dentry: Dentry, spot: &Spot<'_>) {
        let now = self.now;
        self.attach(spot.parent, spot.name, dentry.ino, dentry.kind);
        self.edit(dentry.ino, |inode| {
            inode.ctime = now;
            if inode.is_directory() {
                inode.parent = spot.parent;
            }
        });
    }
}
