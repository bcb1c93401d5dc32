//! Calls about names: what directories hold.

use bftfs_fs::{Attributes, FileType, Ino, Operation, RenameMode, Touch, access};
use bftfs_proto::client::How;
use bytes::Bytes;

use super::directory::{Directory, Listing};
use super::handles::Handle;
use super::wire::{Part, Removed};
use super::{Cluster, Error, Policy, Process, Then, Volume};

/// Bytes of a directory that are fetched at once, as FUSE counts them: some 1,500 entries
/// without their attributes, some 400 with them.
const LISTING_BYTES: u32 = 64 << 10;

/// `renameat2(2)`: fail if the new name exists.
const RENAME_NOREPLACE: u32 = 1;
/// `renameat2(2)`: the names change places.
const RENAME_EXCHANGE: u32 = 2;

fn name(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

impl<C: Cluster> Volume<C> {
    /// What `child` in a directory stands for.
    pub fn lookup(&self, process: Process, parent: u64, child: &[u8], then: impl Then<Attributes>) {
        let operation = Operation::Lookup { parent: Ino(parent), name: name(child) };
        self.ask(process, operation, self.inner.policy.mode.how(), then);
    }

    /// Where a symbolic link points to.
    pub fn readlink(&self, process: Process, ino: u64, then: impl Then<Bytes>) {
        let operation = Operation::Readlink { ino: Ino(ino), touch: self.inner.policy.touch };
        self.ask(process, operation, self.inner.policy.mode.how(), then);
    }

    /// Makes a file, a device, a pipe or a socket, by the type bits of `mode` (`mknod(2)`).
    pub fn mknod(
        &self,
        process: Process,
        parent: u64,
        child: &[u8],
        mode: u32,
        rdev: u32,
        then: impl Then<Attributes>,
    ) {
        let Some(kind) = kind(mode) else { return then(Err(Error::INVAL)) };
        let operation =
            Operation::Mknod { parent: Ino(parent), name: name(child), kind, mode, rdev };
        self.ask(process, operation, How::Ordered, then);
    }

    /// Makes a directory.
    pub fn mkdir(
        &self,
        process: Process,
        parent: u64,
        child: &[u8],
        mode: u32,
        then: impl Then<Attributes>,
    ) {
        let operation = Operation::Mkdir { parent: Ino(parent), name: name(child), mode };
        self.ask(process, operation, How::Ordered, then);
    }

    /// Makes a symbolic link to `target`.
    pub fn symlink(
        &self,
        process: Process,
        parent: u64,
        child: &[u8],
        target: &[u8],
        then: impl Then<Attributes>,
    ) {
        let (name, target) = (name(child), Bytes::copy_from_slice(target));
        let operation = Operation::Symlink { parent: Ino(parent), name, target };
        self.ask(process, operation, How::Ordered, then);
    }

    /// Gives a file one more name.
    pub fn link(
        &self,
        process: Process,
        ino: u64,
        parent: u64,
        child: &[u8],
        then: impl Then<Attributes>,
    ) {
        let operation = Operation::Link { ino: Ino(ino), parent: Ino(parent), name: name(child) };
        self.ask(process, operation, How::Ordered, then);
    }

    /// Removes a name of anything but a directory. A file that is open here lives on.
    pub fn unlink(&self, process: Process, parent: u64, child: &[u8], then: impl Then<()>) {
        let (parent, name) = (Ino(parent), name(child));
        self.remove(process, |keep| Operation::Unlink { parent, name, keep }, then);
    }

    /// Removes an empty directory. Open directories need no keeping: the kernel itself refuses to
    /// list one that it saw removed.
    pub fn rmdir(&self, process: Process, parent: u64, child: &[u8], then: impl Then<()>) {
        let operation = Operation::Rmdir { parent: Ino(parent), name: name(child), keep: false };
        self.ask(process, operation, How::Ordered, move |removed: Result<Removed, Error>| {
            then(removed.map(drop));
        });
    }

    /// Moves a name to another, as the flags of `renameat2(2)` say. A file that is replaced and
    /// open here lives on.
    pub fn rename(
        &self,
        process: Process,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
        then: impl Then<()>,
    ) {
        let mode = match flags {
            0 => RenameMode::Replace,
            RENAME_NOREPLACE => RenameMode::NoReplace,
            RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return then(Err(Error::INVAL)),
        };
        let (parent, name_here) = (Ino(from.0), name(from.1));
        let (new_parent, new_name) = (Ino(to.0), name(to.1));
        let rename =
            |keep| Operation::Rename { parent, name: name_here, new_parent, new_name, mode, keep };
        self.remove(process, rename, then);
    }

    /// Asks for what may take a file's last name, and sees to the file if it did.
    fn remove(
        &self,
        process: Process,
        operation: impl FnOnce(bool) -> Operation,
        then: impl Then<()>,
    ) {
        let keep = self.inner.files.unlink_starts();
        let volume = self.clone();
        self.ask(process, operation(keep), How::Ordered, move |removed: Result<Removed, Error>| {
            let kept = removed.as_ref().ok().and_then(|removed| removed.0);
            let unused = kept.filter(|ino| volume.inner.files.orphaned(*ino));
            volume.inner.files.unlink_ends(keep);
            then(removed.map(drop));
            if let Some(ino) = unused {
                volume.let_go(ino);
            }
        });
    }

    /// Opens a directory to list it, and returns its handle.
    ///
    /// Where listing never moves atime, the first part of it is fetched instead of a mere
    /// permission check: it needs the same permission. Elsewhere atime would move before anything
    /// was read.
    pub fn opendir(&self, process: Process, ino: u64, then: impl Then<u64>) {
        let (ino, who) = (Ino(ino), self.inner.groups.credentials(process));
        let volume = self.clone();
        let insert = {
            let who = who.clone();
            move |directory| volume.inner.handles.insert(Handle::directory(ino, who, directory))
        };
        let Policy { mode, touch, .. } = self.inner.policy;
        if (mode.how(), touch) == (How::Read, Touch::Never) {
            let operation = self.listing(ino, 0);
            self.ask_for(who, operation, How::Read, move |part: Result<Part, Error>| {
                let open = |part: Part| Directory::opened(part.entries, part.end);
                then(part.map(|part| insert(open(part))));
            });
        } else {
            let operation = Operation::Open { ino, mask: access::READ, truncate: false };
            self.ask_for(who, operation, How::Read, move |opened: Result<Attributes, Error>| {
                then(opened.map(|_| insert(Directory::default())));
            });
        }
    }

    /// The entries of an open directory after the one with `cookie`; 0 starts anew.
    pub fn readdir(&self, handle: u64, cookie: u64, then: impl Then<Listing>) {
        let handle = match self.inner.handles.get(handle) {
            Ok(handle) => handle,
            Err(error) => return then(Err(error)),
        };
        if let Some(listing) = handle.directory.after(cookie) {
            return then(Ok(listing));
        }
        let how = self.inner.policy.mode.how();
        let operation = self.listing(handle.ino, cookie);
        self.ask_for(handle.who.clone(), operation, how, move |part: Result<Part, Error>| {
            then(part.map(|part| handle.directory.fetched(cookie, part.entries, part.end)));
        });
    }

    fn listing(&self, ino: Ino, cookie: u64) -> Operation {
        let Policy { touch, plus, .. } = self.inner.policy;
        Operation::Readdir { ino, cookie, bytes_max: LISTING_BYTES, plus, touch }
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.inner.handles.remove(handle);
    }
}

/// The kind of file that the type bits of a mode stand for (`inode(7)`).
fn kind(mode: u32) -> Option<FileType> {
    use rustix::fs::FileType as Raw;
    match Raw::from_raw_mode(mode) {
        Raw::RegularFile => Some(FileType::Regular),
        Raw::Fifo => Some(FileType::Fifo),
        Raw::Socket => Some(FileType::Socket),
        Raw::CharacterDevice => Some(FileType::CharDevice),
        Raw::BlockDevice => Some(FileType::BlockDevice),
        // mknod(2): no type bits mean a regular file.
        Raw::Unknown if mode & 0o170_000 == 0 => Some(FileType::Regular),
        Raw::Unknown | Raw::Directory | Raw::Symlink => None,
    }
}
