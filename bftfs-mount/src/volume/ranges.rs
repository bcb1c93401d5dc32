//! Calls about parts of open files: seeking, allocating, copying.
//!
//! One operation does a bounded piece of such a call; the call goes on from where it came to.

use std::sync::Arc;

use bftfs_fs::{Allocation, Operation, Sought};
use bftfs_proto::client::How;
use bytes::Bytes;
use tracing::warn;

use super::gate::Permit;
use super::handles::Handle;
use super::wire::{self, Progress, Written};
use super::{Cluster, Error, Prepared, Then, Volume};

/// A call in as many operations as it takes. It keeps its place inside the gate from the first to
/// the last: nobody may wait for one on the cluster's thread.
struct Steps<C, O> {
    volume: Volume<C>,
    file: Arc<Handle>,
    /// What is to be done from an offset on.
    operation: O,
    how: How,
    permit: Permit,
}

impl<C: Cluster, O: Fn(u64) -> Operation + Send + 'static> Steps<C, O> {
    /// Has the operation from `offset` on carried out, which is encoded as `bytes`, and those that
    /// follow.
    fn run(self, offset: u64, bytes: Bytes, then: impl Then<u64>) {
        let (volume, how) = (self.volume.clone(), self.how);
        let done = move |result| match wire::decode(result) {
            Ok(Progress::Reached(reached)) if reached > offset => {
                let bytes = wire::encode(self.file.who.clone(), (self.operation)(reached));
                self.run(reached, bytes, then);
            }
            Ok(Progress::Reached(_)) => {
                warn!("a quorum of replicas does not get on: are they of another version?");
                then(Err(Error::IO));
            }
            Ok(Progress::Ended(found)) => {
                then(Ok(found));
                drop(self.permit);
            }
            Err(error) => then(Err(error)),
        };
        volume.inner.cluster.submit(bytes, how, Box::new(done));
    }
}

impl<C: Cluster> Volume<C> {
    /// Where data, or a hole, begins in an open file, from `offset` on (lseek(2)).
    pub fn seek(&self, handle: u64, offset: u64, sought: Sought, then: impl Then<u64>) {
        let file = match self.inner.handles.get(handle) {
            Ok(file) => file,
            Err(error) => return then(Err(error)),
        };
        let ino = file.ino;
        let operation = move |offset| Operation::Seek { ino, offset, sought };
        self.in_steps(file, How::Read, offset, operation, then);
    }

    /// Allocates, punches or zeroes a part of an open file (fallocate(2)).
    pub fn allocate(
        &self,
        handle: u64,
        offset: u64,
        length: u64,
        how: Allocation,
        then: impl Then<()>,
    ) {
        let file = match self.inner.handles.get(handle) {
            Ok(file) => file,
            Err(error) => return then(Err(error)),
        };
        let (ino, end) = (file.ino, offset.saturating_add(length));
        let operation = move |offset| {
            let length = end.saturating_sub(offset);
            Operation::Allocate { ino, offset, length, how }
        };
        let ticket = self.inner.files.write_starts(ino);
        let volume = self.clone();
        self.in_steps(file, How::Ordered, offset, operation, move |ended| {
            then(ended.map(drop));
            volume.inner.files.write_ends(ino, ticket);
        });
    }

    /// Copies from one open file to another, or within one; returns how many bytes, fewer than
    /// `length` at the end of the file and if it is more than one operation copies.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), length: u64, then: impl Then<u32>) {
        let handles = &self.inner.handles;
        let (source, target) = match (handles.get(from.0), handles.get(to.0)) {
            (Ok(source), Ok(target)) => (source, target),
            (Err(error), _) | (_, Err(error)) => return then(Err(error)),
        };
        if source.who != target.who {
            // One operation is on behalf of one user. The kernel copies by itself then.
            return then(Err(Error::XDEV));
        }
        let operation = Operation::Copy {
            ino: source.ino,
            offset: from.1,
            target: target.ino,
            target_offset: to.1,
            length,
            touch: self.inner.policy.touch,
        };
        let ino = target.ino;
        let ticket = self.inner.files.write_starts(ino);
        let volume = self.clone();
        let who = target.who.clone();
        self.ask_for(who, operation, How::Ordered, move |copied: Result<Written, Error>| {
            then(copied.map(|copied| copied.0));
            volume.inner.files.write_ends(ino, ticket);
        });
    }

    fn in_steps(
        &self,
        file: Arc<Handle>,
        how: How,
        offset: u64,
        operation: impl Fn(u64) -> Operation + Send + 'static,
        then: impl Then<u64>,
    ) {
        let Prepared { bytes, how, permit } =
            self.prepare(file.who.clone(), operation(offset), how);
        let steps = Steps { volume: self.clone(), file, operation, how, permit };
        steps.run(offset, bytes, then);
    }
}
