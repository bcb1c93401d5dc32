//! Locks: fcntl(2), and flock(2) as the kernel passes it on.
//!
//! The replicas keep all locks. fuser does not tell flock from fcntl, so here a flock is a lock of
//! the whole file whose owner is the open file, as with Linux's NFS client.
//!
//! A POSIX lock goes when its process closes any descriptor of the file: the kernel tells with
//! FLUSH. Locks of open files go with the last descriptor: the kernel tells with RELEASE, but not
//! whose locks they are, so it is remembered through which handle each owner asked.

mod owners;
mod wait;

use std::sync::atomic::Ordering;

use bftfs_fs::{Credentials, Ino, Lock, LockKind, Operation};
use bftfs_proto::client::How;
use tracing::warn;

use super::wire::Granted;
use super::{Cluster, Error, Process, Then, Volume};

use owners::{Holds, Owner, Owners};
use wait::{LATE, Waiter, Waits};

/// The locks of one mount.
#[derive(Debug, Default)]
pub(super) struct Locks {
    owners: Owners,
    waits: Waits,
}

/// What the answer to a lock says about its owner.
fn holds(answer: &Result<Granted, Error>) -> Holds {
    match answer {
        Ok(Granted::Now { any: false }) => Holds::Nothing,
        Ok(Granted::Now { any: true }) | Err(Error::TIMEDOUT | Error::IO) => Holds::Perhaps,
        // Refused: what it had it has.
        Ok(Granted::NotYet) | Err(_) => Holds::Same,
    }
}

impl<C: Cluster> Volume<C> {
    /// Takes, changes or gives up a lock of an open file; waits for it if it is to.
    pub fn set_lock(
        &self,
        process: Process,
        handle: u64,
        lock: Lock,
        wait: bool,
        then: impl Then<()>,
    ) {
        let file = match self.inner.handles.get(handle) {
            Ok(file) => file,
            Err(error) => return then(Err(error)),
        };
        let owner = Owner { ino: file.ino, number: lock.owner };
        let owners = &self.inner.locks.owners;
        if lock.kind == LockKind::Unlock && !owners.may_hold(owner) {
            return then(Ok(()));
        }
        if lock.kind != LockKind::Unlock && file.is_lost() {
            return then(Err(Error::IO));
        }
        let operation = Operation::SetLock { ino: file.ino, lock, wait };
        let request = self.prepare(file.who.clone(), operation, How::Ordered);
        let volume = self.clone();
        let ask = move |may: bool| {
            if !may {
                then(Err(Error::TIMEDOUT));
            } else if wait && lock.kind != LockKind::Unlock {
                let who = file.who.clone();
                volume.wait_for_lock(request, Waiter { process, who, owner, lock }, then);
            } else {
                let asked = volume.clone();
                volume.send(request, move |answer| {
                    asked.told(owner, holds(&answer));
                    then(answer.map(drop));
                });
            }
        };
        owners.asks(owner, handle, Box::new(ask));
    }

    /// The first lock in the way of this one.
    pub fn get_lock(&self, handle: u64, lock: Lock, then: impl Then<Option<Lock>>) {
        match self.inner.handles.get(handle) {
            Ok(file) => {
                let operation = Operation::GetLock { ino: file.ino, lock };
                self.ask_for(file.who.clone(), operation, How::Read, then);
            }
            Err(error) => then(Err(error)),
        }
    }

    /// A process closes a descriptor: its POSIX locks of the file go, whichever descriptor they
    /// were taken with. Costs nothing if it has none.
    pub fn flush(&self, ino: u64, owner: u64, then: impl Then<()>) {
        let owner = Owner { ino: Ino(ino), number: owner };
        if self.inner.locks.owners.may_hold(owner) {
            self.release_locks(owner, then);
        } else {
            then(Ok(()));
        }
    }

    /// A handle is closed: the locks of its open file go. Nobody waits for that.
    pub(super) fn release_locks_through(&self, ino: Ino, handle: u64) {
        for owner in self.inner.locks.owners.closed(ino, handle) {
            self.release_locks(owner, drop);
        }
    }

    /// The session ended and its locks with it. What was protected by them may have changed since:
    /// whoever goes on must find out.
    pub(super) fn session_lost(&self) {
        let handles = self.inner.locks.owners.lost();
        if !handles.is_empty() {
            warn!(
                "the replicas ended this mount's session, and its locks with it: {} open files had \
                 some and give EIO until they are closed",
                handles.len()
            );
        }
        for file in handles.into_iter().filter_map(|handle| self.inner.handles.get(handle).ok()) {
            file.lost.store(true, Ordering::Relaxed);
        }
    }

    fn told(&self, owner: Owner, holds: Holds) {
        if self.inner.locks.owners.told(owner, holds) {
            self.release_locks(owner, drop);
        }
    }

    /// Has an owner let go of everything. What cannot be told now is told later: nobody else would.
    fn release_locks(&self, owner: Owner, then: impl Then<()>) {
        self.inner.locks.owners.lets_go(owner);
        let operation = Operation::ReleaseLocks { ino: owner.ino, owner: owner.number };
        let volume = self.clone();
        self.ask_free(Credentials::default(), operation, move |answer| {
            let late = answer == Err(Error::TIMEDOUT);
            volume.inner.locks.owners.has_let_go(owner, late);
            if late {
                let again = volume.clone();
                volume.inner.timer.after(LATE, Box::new(move || again.release_locks(owner, drop)));
            }
            volume.told(owner, if late { Holds::Same } else { Holds::Nothing });
            then(answer);
        });
    }
}
