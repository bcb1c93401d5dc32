//! Locks of ranges of bytes, as fcntl(2) has them: who holds them, and who waits for them.
//!
//! A lock belongs to an owner of a session: a process or an open file of a mount, as its kernel
//! numbers them. What one owner holds never stands in its own way; a new lock replaces what the
//! owner had in its range.
//!
//! Whoever waits is in the state too. When locks go, those who waited for them get theirs in the
//! order in which they came, as far as they fit; they find that when they ask again, and are nudged
//! to.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bftfs_proto::service::Nudge;
use bftfs_proto::types::SessionId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attributes::Ino;
use crate::errno::Errno;
use crate::inode::{Change, View, check_regular};
use crate::layout::{self, FILE_BYTES_MAX, Inode};
use crate::operation::{Outcome, Reply};

/// Most locks and waits of one file; what would be more is refused with [`Errno::ENOLCK`].
pub const FILE_LOCKS_MAX: usize = 1024;
/// Most locks and waits of one session.
pub const SESSION_LOCKS_MAX: usize = 8192;
/// Most waits of one session, those of one owner for one file counted once.
pub const SESSION_WAITS_MAX: usize = 1024;
/// Owners and waits that the search for a deadlock looks at. One that is bigger is not found.
const DEADLOCK_STEPS_MAX: usize = 256;

/// What a lock allows others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// Others may hold locks to read.
    Read,
    /// Others may hold none.
    Write,
    /// It is no lock: whatever there was is gone.
    Unlock,
}

/// A range of a file that is to be locked, or is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// What for.
    pub kind: LockKind,
    /// Whose it is: any number that the mount knows its owners by.
    pub owner: u64,
    /// The process to tell those who ask who holds it. Means something on its mount only.
    pub pid: u32,
}

/// An owner of locks among those of all mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) session: SessionId,
    number: u64,
}

/// A lock that is held or waited for. Ordered by where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// A lock to write.
    exclusive: bool,
    pub(crate) owner: Owner,
    pid: u32,
}

impl Claim {
    fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner && (self.exclusive || other.exclusive) && self.overlaps(other)
    }

    /// Whether the two are one lock in two pieces.
    fn continues(&self, other: &Self) -> bool {
        let same = (self.exclusive, self.owner, self.pid);
        same == (other.exclusive, other.owner, other.pid)
            && (self.overlaps(other) || self.end + 1 == other.start || other.end + 1 == self.start)
    }
}

/// The locks of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileLocks {
    /// In ascending order.
    pub(crate) held: Vec<Claim>,
    /// In the order in which they came.
    pub(crate) waiting: Vec<Claim>,
}

/// What a session has of all locks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionLocks {
    /// Locks that it holds or waits for.
    pub(crate) claims: u64,
    /// Which of its owners wait for which files.
    pub(crate) waits: BTreeSet<(u64, Ino)>,
}

/// What a session has of one file's locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) claims: u64,
    /// Its owners that wait.
    pub(crate) waits: BTreeSet<u64>,
}

impl FileLocks {
    fn len(&self) -> usize {
        self.held.len() + self.waiting.len()
    }

    /// What stands in the way of a claim.
    fn blockers(&self, claim: &Claim) -> impl Iterator<Item = &Claim> {
        self.held.iter().filter(|held| held.conflicts(claim))
    }

    /// Takes what is in the range of `claim` from its owner.
    fn clear(&mut self, claim: &Claim) {
        let mut rest = Vec::with_capacity(self.held.len() + 1);
        for held in self.held.drain(..) {
            if held.owner != claim.owner || !held.overlaps(claim) {
                rest.push(held);
                continue;
            }
            if held.start < claim.start {
                rest.push(Claim { end: claim.start - 1, ..held });
            }
            if held.end > claim.end {
                rest.push(Claim { start: claim.end + 1, ..held });
            }
        }
        rest.sort_unstable();
        self.held = rest;
    }

    /// Gives its owner what `claim` says, in one piece with what it continues.
    fn hold(&mut self, claim: &Claim) {
        self.clear(claim);
        let mut whole = *claim;
        self.held.retain(|held| {
            let part = held.continues(claim);
            if part {
                whole.start = whole.start.min(held.start);
                whole.end = whole.end.max(held.end);
            }
            !part
        });
        self.held.push(whole);
        self.held.sort_unstable();
    }

    /// Gives those who wait what they wait for, first come first served, as far as it fits. Who gets
    /// a lock to read for one to write lets go, too: perhaps for somebody who came before.
    /// The sessions that got something are the result.
    fn grant(&mut self) -> BTreeSet<SessionId> {
        let mut lucky = BTreeSet::new();
        while self.grant_some(&mut lucky) {}
        lucky
    }

    /// The same, looking at each of them once; whether anybody got anything.
    fn grant_some(&mut self, lucky: &mut BTreeSet<SessionId>) -> bool {
        let mut waiting = core::mem::take(&mut self.waiting);
        let before = waiting.len();
        waiting.retain(|claim| {
            let blocked = self.blockers(claim).next().is_some();
            if !blocked {
                self.hold(claim);
                lucky.insert(claim.owner.session);
            }
            blocked
        });
        self.waiting = waiting;
        self.waiting.len() < before
    }

    /// Takes all locks and waits from some owners; the sessions that got something by that.
    fn release(&mut self, of: impl Fn(Owner) -> bool) -> BTreeSet<SessionId> {
        self.held.retain(|claim| !of(claim.owner));
        self.waiting.retain(|claim| !of(claim.owner));
        self.grant()
    }

    /// What each session has of them.
    pub(crate) fn shares(&self) -> BTreeMap<SessionId, Share> {
        let mut shares: BTreeMap<SessionId, Share> = BTreeMap::new();
        for claim in self.held.iter().chain(&self.waiting) {
            shares.entry(claim.owner.session).or_default().claims += 1;
        }
        for Claim { owner, .. } in &self.waiting {
            shares.entry(owner.session).or_default().waits.insert(owner.number);
        }
        shares
    }
}

/// The file that a nudge of the file service is about, where a lock was granted.
#[must_use]
pub fn nudged_file(about: &[u8]) -> Option<Ino> {
    about.try_into().ok().map(|number| Ino(u64::from_le_bytes(number)))
}

fn check_range(lock: &Lock) -> Result<(), Errno> {
    let sound = lock.start <= lock.end && lock.end <= FILE_BYTES_MAX;
    if sound { Ok(()) } else { Err(Errno::EINVAL) }
}

impl View<'_> {
    fn claim(&self, lock: &Lock) -> Claim {
        let &Lock { start, end, kind, owner, pid } = lock;
        let owner = Owner { session: self.session, number: owner };
        Claim { start, end, exclusive: kind == LockKind::Write, owner, pid }
    }

    fn file_locks(&self, ino: Ino) -> FileLocks {
        layout::load_long(self.tree, &layout::locks_key(ino))
    }

    fn session_locks(&self, session: SessionId) -> SessionLocks {
        layout::load_long(self.tree, &layout::session_locks_key(session))
    }

    /// Locks are for those who may use the file: nobody else can have it open.
    fn check_lock(&self, ino: Ino, inode: &Inode, lock: &Lock) -> Result<(), Errno> {
        check_regular(inode)?;
        check_range(lock)?;
        self.check_read_open(ino, inode).or_else(|_| self.check_write_open(ino, inode))
    }

    /// The first lock that stands in the way; for [`LockKind::Unlock`] the first that would go.
    pub(crate) fn get_lock(&self, ino: Ino, lock: &Lock) -> Outcome {
        self.check_lock(ino, &self.inode(ino)?, lock)?;
        let claim = self.claim(lock);
        let locks = self.file_locks(ino);
        let found = match lock.kind {
            LockKind::Unlock => {
                let own = |held: &&Claim| held.owner == claim.owner && held.overlaps(&claim);
                locks.held.iter().find(own)
            }
            LockKind::Read | LockKind::Write => locks.blockers(&claim).next(),
        };
        // Another mount's numbers would be mistaken for those of this one.
        let here = |held: &Claim| held.owner.session == self.session;
        Ok(Reply::Conflict(found.map(|held| Lock {
            start: held.start,
            end: held.end,
            kind: if held.exclusive { LockKind::Write } else { LockKind::Read },
            owner: if here(held) { held.owner.number } else { 0 },
            pid: if here(held) { held.pid } else { 0 },
        })))
    }

    /// ENOLCK if there would be too many locks or waits.
    fn check_growth(&self, before: &FileLocks, after: &FileLocks) -> Result<(), Errno> {
        if after.len() <= before.len() {
            return Ok(());
        }
        let locks = self.session_locks(self.session);
        let claims = locks.claims + (after.len() - before.len()) as u64;
        let waits = locks.waits.len() + usize::from(after.waiting.len() > before.waiting.len());
        let room = after.len() <= FILE_LOCKS_MAX
            && claims <= SESSION_LOCKS_MAX as u64
            && waits <= SESSION_WAITS_MAX;
        if room { Ok(()) } else { Err(Errno::ENOLCK) }
    }

    /// Whether those who stand in the way of `claim` wait, directly or not, for its owner.
    fn deadlocks(&self, claim: &Claim, locks: &FileLocks) -> bool {
        let mut seen: BTreeSet<Owner> = locks.blockers(claim).map(|held| held.owner).collect();
        let mut open: Vec<Owner> = seen.iter().copied().collect();
        let mut steps = 0;
        while let Some(owner) = open.pop()
            && steps < DEADLOCK_STEPS_MAX
        {
            steps += 1;
            if owner == claim.owner {
                return true;
            }
            let waits = self.session_locks(owner.session).waits;
            for &(_, ino) in waits.range((owner.number, Ino(0))..=(owner.number, Ino(u64::MAX))) {
                let locks = self.file_locks(ino);
                let left = DEADLOCK_STEPS_MAX.saturating_sub(steps);
                let waits = locks.waiting.iter().filter(|wait| wait.owner == owner).take(left);
                for wait in waits {
                    steps += 1;
                    let further = locks.blockers(wait).map(|held| held.owner);
                    open.extend(further.filter(|owner| seen.insert(*owner)));
                }
            }
        }
        false
    }
}

impl Change<'_> {
    /// Takes, changes or gives up locks of one owner.
    pub(crate) fn set_lock(&mut self, ino: Ino, lock: &Lock, wait: bool) -> Outcome {
        let view = self.view();
        let inode = view.inode(ino)?;
        if lock.kind == LockKind::Unlock {
            check_range(lock)?;
        } else {
            view.check_lock(ino, &inode, lock)?;
        }
        let claim = view.claim(lock);
        let before = view.file_locks(ino);
        let mut after = before.clone();
        let mut granted = true;
        if lock.kind == LockKind::Unlock {
            after.clear(&claim);
        } else if after.blockers(&claim).next().is_none() {
            after.waiting.retain(|waiting| *waiting != claim);
            after.hold(&claim);
        } else if !wait {
            return Err(Errno::EAGAIN);
        } else if view.deadlocks(&claim, &before) {
            // It may have waited before others began to wait for it.
            after.waiting.retain(|waiting| *waiting != claim);
            self.save_locks(ino, &before, &after);
            return Err(Errno::EDEADLK);
        } else {
            granted = false;
            if !before.waiting.contains(&claim) {
                after.waiting.push(claim);
            }
        }
        view.check_growth(&before, &after)?;
        let lucky = after.grant();
        self.save_locks(ino, &before, &after);
        self.nudge(ino, lucky);
        let any = after.held.iter().any(|held| held.owner == claim.owner);
        Ok(if granted { Reply::Locked { any } } else { Reply::Waiting })
    }

    /// Gives up waiting, unless the lock was granted before.
    pub(crate) fn cancel_lock(&mut self, ino: Ino, lock: &Lock) -> Outcome {
        if lock.kind == LockKind::Unlock {
            return Err(Errno::EINVAL);
        }
        let claim = self.view().claim(lock);
        let before = self.view().file_locks(ino);
        let mut after = before.clone();
        after.waiting.retain(|waiting| *waiting != claim);
        if after == before {
            let holds = |held: &Claim| {
                (held.owner, held.exclusive) == (claim.owner, claim.exclusive)
                    && held.start <= claim.start
                    && claim.end <= held.end
            };
            let granted = before.held.iter().any(holds);
            return Ok(if granted { Reply::Locked { any: true } } else { Reply::Done });
        }
        self.save_locks(ino, &before, &after);
        Ok(Reply::Done)
    }

    /// Lets go of all that an owner holds and waits for on one file.
    pub(crate) fn release_locks(&mut self, ino: Ino, owner: u64) -> Outcome {
        let owner = Owner { session: self.session, number: owner };
        self.release_locks_of(ino, |other| other == owner);
        Ok(Reply::Done)
    }

    /// A file is gone, and its locks with it.
    pub(crate) fn drop_locks(&mut self, ino: Ino) {
        self.release_locks_of(ino, |_| true);
    }

    /// Lets go of the locks of a session that is closed, as far as this operation may.
    pub(crate) fn sweep_locks(&mut self, session: SessionId) {
        /// One file's locks take as much work as removing so many blocks.
        const FILE_COST: usize = 8;
        while self.removals > 0
            && let Some(ino) = self.locked_by(session)
        {
            self.removals = self.removals.saturating_sub(FILE_COST);
            self.release_locks_of(ino, |owner| owner.session == session);
        }
    }

    /// A file of which the session has locks.
    pub(crate) fn locked_by(&self, session: SessionId) -> Option<Ino> {
        let from = layout::locked_key(session, Ino(0));
        let (key, _) =
            self.tree.range(&from, &layout::locked_key(session, Ino(u64::MAX))).next()?;
        let (_, ino) = layout::split_two(key).expect("the key of a locked file has two numbers");
        Some(Ino(ino))
    }

    fn release_locks_of(&mut self, ino: Ino, of: impl Fn(Owner) -> bool) {
        let before = self.view().file_locks(ino);
        let mut after = before.clone();
        let lucky = after.release(of);
        self.save_locks(ino, &before, &after);
        self.nudge(ino, lucky);
    }

    /// They have locks that they waited for.
    fn nudge(&mut self, ino: Ino, lucky: BTreeSet<SessionId>) {
        let about = Bytes::copy_from_slice(&ino.0.to_le_bytes());
        let nudge = |session| Nudge { session, about: about.clone() };
        self.nudges.extend(lucky.into_iter().map(nudge));
    }

    /// Writes the locks of a file, and what its sessions have of them.
    fn save_locks(&mut self, ino: Ino, before: &FileLocks, after: &FileLocks) {
        if before == after {
            return;
        }
        let key = layout::locks_key(ino);
        if after.len() == 0 {
            self.tree.remove(&key);
        } else {
            layout::store(self.tree, &key, after);
        }
        let (old, new) = (before.shares(), after.shares());
        let sessions: BTreeSet<SessionId> = old.keys().chain(new.keys()).copied().collect();
        let nothing = Share::default();
        for session in sessions {
            let [old, new] = [&old, &new].map(|shares| shares.get(&session).unwrap_or(&nothing));
            self.save_share(session, ino, old, new);
        }
    }

    fn save_share(&mut self, session: SessionId, ino: Ino, old: &Share, new: &Share) {
        if old == new {
            return;
        }
        let mut locks = self.view().session_locks(session);
        // Fewer than were counted only if the record was damaged.
        locks.claims = (locks.claims + new.claims).saturating_sub(old.claims);
        for owner in &old.waits {
            locks.waits.remove(&(*owner, ino));
        }
        locks.waits.extend(new.waits.iter().map(|owner| (*owner, ino)));
        let key = layout::session_locks_key(session);
        if locks.claims == 0 {
            self.tree.remove(&key);
        } else {
            layout::store(self.tree, &key, &locks);
        }
        let key = layout::locked_key(session, ino);
        if new.claims == 0 {
            self.tree.remove(&key);
        } else {
            self.tree.insert(&key, Vec::new());
        }
    }
}
