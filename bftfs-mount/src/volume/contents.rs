//! Calls about files that are open, and about opening them.

use bftfs_fs::{Attributes, Ino, Operation, READ_BYTES_MAX};
use bftfs_proto::client::How;
use bytes::Bytes;

use super::handles::Handle;
use super::wire::Written;
use super::{Cluster, Error, Process, Then, Volume};

/// How a file is to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// Bits of [`bftfs_fs::access`].
    pub mask: u8,
    /// Whether it is cut to nothing (`O_TRUNC`).
    pub truncate: bool,
    /// Whether it must not exist (`O_EXCL`). For create only.
    pub exclusive: bool,
}

/// Where to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From this offset on.
    At(u64),
    /// At the end, wherever the replicas find that (`O_APPEND`).
    End,
}

impl<C: Cluster> Volume<C> {
    /// Opens a file and returns its handle.
    pub fn open(&self, process: Process, ino: u64, how: OpenHow, then: impl Then<u64>) {
        let ino = Ino(ino);
        let who = self.inner.groups.credentials(process);
        let order = if how.truncate { How::Ordered } else { How::Read };
        let operation = Operation::Open { ino, mask: how.mask, truncate: how.truncate };
        let request = self.prepare(who.clone(), operation, order);
        let volume = self.clone();
        let opened = move |result: Result<Attributes, Error>| {
            let end = {
                let volume = volume.clone();
                move |result: Result<(), Error>| {
                    if result.is_err() {
                        volume.closed(ino);
                    }
                    then(result.map(|()| volume.inner.handles.insert(Handle::file(ino, who))));
                }
            };
            match result {
                Ok(attributes) if attributes.nlink == 0 => volume.keep_opened(ino, end),
                result => end(result.map(drop)),
            }
        };
        let volume = self.clone();
        self.inner.files.open(ino, Box::new(move || volume.send(request, opened)));
    }

    /// A file was opened that another mount unlinked meanwhile, maybe before this one heard that
    /// and said that it does not have it open.
    fn keep_opened(&self, ino: Ino, then: impl Then<()>) {
        if self.inner.files.without_names(vec![ino]).is_empty() {
            return then(Ok(()));
        }
        let volume = self.clone();
        self.hold(vec![ino], move |held| {
            if held.is_err() {
                // Perhaps it is kept.
                let _open = volume.inner.files.orphaned(ino);
            }
            let kept = |held: Vec<Ino>| if held.is_empty() { Err(Error::STALE) } else { Ok(()) };
            then(held.and_then(kept));
        });
    }

    /// Opens a regular file, made if the name is free; returns its attributes and its handle.
    pub fn create(
        &self,
        process: Process,
        parent: u64,
        child: &[u8],
        mode: u32,
        how: OpenHow,
        then: impl Then<(Attributes, u64)>,
    ) {
        let who = self.inner.groups.credentials(process);
        let operation = Operation::Create {
            parent: Ino(parent),
            name: Bytes::copy_from_slice(child),
            mode,
            exclusive: how.exclusive,
            mask: how.mask,
            truncate: how.truncate,
        };
        let request = self.prepare(who.clone(), operation, How::Ordered);
        let ticket = self.inner.files.creation_starts();
        let volume = self.clone();
        self.send(request, move |made: Result<Attributes, Error>| {
            let created = made.as_ref().ok().map(|attributes| attributes.ino);
            volume.inner.files.creation_ends(ticket, created);
            then(made.map(|attributes| {
                let handle = Handle::file(attributes.ino, who);
                (attributes, volume.inner.handles.insert(handle))
            }));
        });
    }

    /// Reads an open file: `length` bytes, fewer only at its end.
    pub fn read(&self, handle: u64, offset: u64, length: u32, then: impl Then<Bytes>) {
        let file = match self.inner.handles.get_sound(handle) {
            Ok(file) => file,
            Err(error) => return then(Err(error)),
        };
        let (touch, length) = (self.inner.policy.touch, length.min(READ_BYTES_MAX));
        let operation = Operation::Read { ino: file.ino, offset, length, touch };
        self.ask_for(file.who.clone(), operation, self.inner.policy.mode.how(), then);
    }

    /// Writes an open file, all or nothing; returns how many bytes.
    pub fn write(&self, handle: u64, place: Place, data: &[u8], then: impl Then<u32>) {
        let file = match self.inner.handles.get_sound(handle) {
            Ok(file) => file,
            Err(error) => return then(Err(error)),
        };
        let (offset, append) = match place {
            Place::At(offset) => (offset, false),
            Place::End => (0, true),
        };
        let ino = file.ino;
        let operation =
            Operation::Write { ino, offset, append, data: Bytes::copy_from_slice(data) };
        let ticket = self.inner.files.write_starts(ino);
        let volume = self.clone();
        let who = file.who.clone();
        self.ask_for(who, operation, How::Ordered, move |written: Result<Written, Error>| {
            then(written.map(|written| written.0));
            volume.inner.files.write_ends(ino, ticket);
        });
    }

    /// Calls `then` when every write to the file that has begun is answered.
    pub fn fsync(&self, handle: u64, then: impl Then<()>) {
        match self.inner.handles.get(handle) {
            Ok(file) => self.inner.files.after_writes(file.ino, Box::new(|| then(Ok(())))),
            Err(error) => then(Err(error)),
        }
    }

    /// Closes a file. Nobody waits if the replicas have to hear of it.
    pub fn release(&self, handle: u64) {
        if let Some(file) = self.inner.handles.remove(handle) {
            self.release_locks_through(file.ino, handle);
            self.closed(file.ino);
        }
    }

    fn closed(&self, ino: Ino) {
        if self.inner.files.close(ino) {
            self.let_go(ino);
        }
    }
}
