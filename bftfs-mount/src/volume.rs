//! POSIX-like calls, carried out by the cluster.
//!
//! Each call becomes one [`bftfs_fs::Operation`]; its result goes to the function that came with
//! the call, on the cluster's thread. No call waits for an answer. What calls cost:
//!
//! | call | to the cluster |
//! |---|---|
//! | lookup | one, ordered in `strict`, otherwise a fast read |
//! | readlink, read, readdir | the same; in `relatime`, when it moves atime, an ordered one more |
//! | getattr, access, statfs, open, getxattr, listxattr | one fast read |
//! | seek for data | one fast read; for a hole one for each 64 MiB of data before it |
//! | allocate, copy | one ordered; one more for each 256 blocks that are punched |
//! | opendir | one fast read; in `ro-lookup` it fetches the first part of the listing too |
//! | readdir of what was fetched already | none |
//! | flush, release of who has no locks; fsync, fsyncdir | none |
//! | open of what another mount unlinks meanwhile | one ordered more |
//! | getlk | one fast read |
//! | unlock of who has no locks | none |
//! | all others, open with `O_TRUNC` | one ordered |
//!
//! An fsync needs nothing from the cluster: a write is answered when a quorum has it, in `sync`
//! durability on disk, and fsync promises no more. It only waits for writes that other threads
//! have under way. In `replicated` durability it promises what a write does: a quorum has it in
//! memory.

mod caller;
mod cluster;
mod contents;
mod directory;
mod files;
mod gate;
mod handles;
mod interrupts;
mod killable;
mod locks;
mod mode;
mod names;
mod ranges;
mod timer;
mod unnamed;
mod wire;
mod xattr;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bftfs_fs::{Attributes, Credentials, Ino, Operation, SetAttributes, Statistics};
use bftfs_proto::client::{Failure, How};
use bytes::Bytes;

pub use caller::Process;
pub use cluster::{Cluster, Done};
pub use contents::{OpenHow, Place};
pub use directory::Listing;
pub use gate::{BYTES_MAX, REQUESTS_MAX};
pub use mode::{Mode, Policy};

use caller::Groups;
use files::Files;
use gate::{Gate, Permit};
use handles::Handles;
use killable::Calls;
use locks::Locks;
use timer::Timer;
use unnamed::Unnamed;
use wire::Answer;

/// An error number as system calls return them.
pub type Error = rustix::io::Errno;

/// The file system of one cluster, seen through one mount. Clones are the same one.
pub struct Volume<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    cluster: C,
    policy: Policy,
    gate: Arc<Gate>,
    groups: Groups,
    files: Files,
    handles: Handles,
    unnamed: Unnamed,
    calls: Calls,
    locks: Locks,
    timer: Arc<Timer>,
}

/// A request on its way.
struct Prepared {
    bytes: Bytes,
    how: How,
    permit: Permit,
}

impl<C> Clone for Volume<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<C> fmt::Debug for Volume<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume")
            .field("policy", &self.inner.policy)
            .field("gate", &self.inner.gate)
            .field("files", &self.inner.files)
            .finish_non_exhaustive()
    }
}

impl<C: Cluster> Volume<C> {
    /// The file system that `cluster` keeps, read as `policy` says. A mode alone is one, too.
    #[must_use]
    pub fn new(cluster: C, policy: impl Into<Policy>) -> Self {
        let inner = Inner {
            cluster,
            policy: policy.into(),
            gate: Arc::default(),
            groups: Groups::default(),
            files: Files::default(),
            handles: Handles::default(),
            unnamed: Unnamed::default(),
            calls: Calls::default(),
            locks: Locks::default(),
            timer: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How it is read.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.inner.policy
    }

    /// Waits until every call is answered; false if that takes longer than `patience`.
    #[must_use]
    pub fn wait_idle(&self, patience: Duration) -> bool {
        self.inner.gate.wait_idle(patience)
    }

    /// Files open now.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.inner.files.count()
    }

    /// The attributes of a file.
    pub fn getattr(&self, process: Process, ino: u64, then: impl Then<Attributes>) {
        self.ask(process, Operation::Getattr { ino: Ino(ino) }, How::Read, then);
    }

    /// Changes attributes of a file, through an open one if there is a handle (ftruncate).
    pub fn setattr(
        &self,
        process: Process,
        ino: u64,
        handle: Option<u64>,
        set: SetAttributes,
        then: impl Then<Attributes>,
    ) {
        let opened = handle.and_then(|handle| self.inner.handles.get(handle).ok());
        let operation = Operation::Setattr { ino: Ino(ino), set, open: opened.is_some() };
        match opened {
            Some(file) if file.is_lost() => then(Err(Error::IO)),
            Some(file) => self.ask_for(file.who.clone(), operation, How::Ordered, then),
            None => self.ask(process, operation, How::Ordered, then),
        }
    }

    /// Whether the caller may do what the bits of [`bftfs_fs::access`] say.
    pub fn access(&self, process: Process, ino: u64, mask: u8, then: impl Then<()>) {
        self.ask(process, Operation::Access { ino: Ino(ino), mask }, How::Read, then);
    }

    /// How full the file system is.
    pub fn statfs(&self, process: Process, then: impl Then<Statistics>) {
        self.ask(process, Operation::Statfs, How::Read, then);
    }

    /// Asks the cluster on behalf of `process` and gives what it says to `then`.
    fn ask<T: Answer>(&self, process: Process, operation: Operation, how: How, then: impl Then<T>) {
        self.ask_for(self.inner.groups.credentials(process), operation, how, then);
    }

    /// The same on behalf of whoever opened a file.
    fn ask_for<T: Answer>(
        &self,
        credentials: Credentials,
        operation: Operation,
        how: How,
        then: impl Then<T>,
    ) {
        let request = self.prepare(credentials, operation, how);
        self.send(request, then);
    }

    /// Makes a request that holds its place inside the gate. May wait for that, so never to be
    /// called from the cluster's thread.
    fn prepare(&self, credentials: Credentials, operation: Operation, how: How) -> Prepared {
        let bytes = wire::encode(credentials, operation);
        let permit = self.inner.gate.enter(bytes.len());
        Prepared { bytes, how, permit }
    }

    fn send<T: Answer>(&self, request: Prepared, then: impl Then<T>) {
        let Prepared { bytes, how, permit } = request;
        let done = move |result| {
            then(wire::decode(result));
            drop(permit);
        };
        self.submit(bytes, how, done);
    }

    /// Asks without a place inside the gate, for what follows from calls that had one and cannot
    /// wait: at most one such question for each.
    fn ask_free<T: Answer>(
        &self,
        credentials: Credentials,
        operation: Operation,
        then: impl Then<T>,
    ) {
        let bytes = wire::encode(credentials, operation);
        self.submit(bytes, How::Ordered, move |result| then(wire::decode(result)));
    }

    fn submit(
        &self,
        bytes: Bytes,
        how: How,
        done: impl FnOnce(Result<Bytes, Failure>) + Send + 'static,
    ) {
        let volume = self.clone();
        let done = move |result| {
            if matches!(result, Err(Failure::SessionLost)) {
                volume.session_lost();
                volume.attend_anew();
            }
            done(result);
        };
        self.inner.cluster.submit(bytes, how, Box::new(done));
    }
}

/// What to do with the answer to a call.
pub trait Then<T>: FnOnce(Result<T, Error>) + Send + 'static {}

impl<T, F: FnOnce(Result<T, Error>) + Send + 'static> Then<T> for F {}
