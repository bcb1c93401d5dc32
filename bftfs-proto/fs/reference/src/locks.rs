//! Locks in the model: for each owner and file, what is locked from which byte on.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_fs::{Errno, FileType, Ino, Lock, LockKind, Operation, Outcome, Reply};

use super::{Circumstances, File, Reference, may, owner, readable, when};

/// A session and its number for the owner.
type Owner = (u64, u64);
/// How bytes are locked, and for which process.
type Hold = Option<(LockKind, u32)>;

/// Holds change at these bytes only; before the first there is none.
type Steps = BTreeMap<u64, Hold>;

#[derive(Clone, Debug)]
struct Wait {
    owner: Owner,
    ino: u64,
    lock: Lock,
}

/// All locks, and all who wait in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    held: BTreeMap<(u64, Owner), Steps>,
    waits: Vec<Wait>,
}

fn at(steps: &Steps, byte: u64) -> Hold {
    steps.range(..=byte).next_back().and_then(|(_, hold)| *hold)
}

fn set(steps: &mut Steps, lock: &Lock) {
    let after = at(steps, lock.end + 1);
    steps.retain(|byte, _| *byte < lock.start || *byte > lock.end + 1);
    let hold = (lock.kind != LockKind::Unlock).then_some((lock.kind, lock.pid));
    steps.insert(lock.start, hold);
    steps.insert(lock.end + 1, after);
    let mut last = None;
    steps.retain(|_, hold| std::mem::replace(&mut last, *hold) != *hold);
}

/// The locks of one owner.
fn list(owner: Owner, steps: &Steps) -> Vec<Lock> {
    let ends = steps.keys().skip(1);
    let parts = steps.iter().zip(ends).filter_map(|((start, hold), end)| {
        let (kind, pid) = (*hold)?;
        Some(Lock { start: *start, end: end - 1, kind, owner: owner.1, pid })
    });
    parts.collect()
}

fn overlap(one: &Lock, two: &Lock) -> bool {
    one.start <= two.end && two.start <= one.end
}

fn clash(one: &Lock, two: &Lock) -> bool {
    overlap(one, two) && (one.kind == LockKind::Write || two.kind == LockKind::Write)
}

impl Locks {
    /// What stands in the way of a lock, and whose it is.
    fn blockers(&self, ino: u64, me: Owner, lock: &Lock) -> Vec<(Owner, Lock)> {
        let others = self.held.iter().filter(|((file, owner), _)| *file == ino && *owner != me);
        let all = others.flat_map(|((_, owner), steps)| {
            list(*owner, steps).into_iter().map(|held| (*owner, held))
        });
        all.filter(|(_, held)| clash(held, lock)).collect()
    }

    /// Whether `me` would wait for itself.
    fn deadlock(&self, ino: u64, me: Owner, lock: &Lock) -> bool {
        let blockers = |ino, me, lock: &Lock| self.blockers(ino, me, lock).into_iter().map(|b| b.0);
        let mut reached: BTreeSet<Owner> = blockers(ino, me, lock).collect();
        loop {
            let waits = self.waits.iter().filter(|wait| reached.contains(&wait.owner));
            let more: BTreeSet<Owner> =
                waits.flat_map(|wait| blockers(wait.ino, wait.owner, &wait.lock)).collect();
            if more.is_subset(&reached) {
                return reached.contains(&me);
            }
            reached.extend(more);
        }
    }

    fn take(&mut self, ino: u64, owner: Owner, lock: &Lock) {
        set(self.held.entry((ino, owner)).or_default(), lock);
        self.held.retain(|_, steps| !steps.is_empty());
    }

    fn grant(&mut self) {
        let before = self.waits.len();
        for wait in std::mem::take(&mut self.waits) {
            if self.blockers(wait.ino, wait.owner, &wait.lock).is_empty() {
                self.take(wait.ino, wait.owner, &wait.lock);
            } else {
                self.waits.push(wait);
            }
        }
        if self.waits.len() < before {
            self.grant();
        }
    }

    /// Lets go of some locks and waits, by file and owner.
    pub(super) fn release(&mut self, of: impl Fn(u64, Owner) -> bool) {
        self.held.retain(|(ino, owner), _| !of(*ino, *owner));
        self.waits.retain(|wait| !of(wait.ino, wait.owner));
        self.grant();
    }

    fn forget(&mut self, ino: u64, owner: Owner, lock: &Lock) -> bool {
        let before = self.waits.len();
        self.waits.retain(|wait| (wait.ino, wait.owner, wait.lock) != (ino, owner, *lock));
        self.waits.len() < before
    }
}

fn usable(at: Circumstances<'_>, file: &File) -> Result<(), Errno> {
    readable(file)?;
    let any = [1, 2, 4].into_iter().any(|mask| may(at.who, file, mask).is_ok());
    when(Errno::EACCES, !owner(at.who, file) && !any)
}

impl Reference {
    pub(super) fn perform_lock(&mut self, at: Circumstances<'_>, operation: &Operation) -> Outcome {
        let me = |number| (at.session, number);
        match *operation {
            Operation::SetLock { ino, ref lock, wait } => {
                self.set_lock(at, ino, me(lock.owner), lock, wait)
            }
            Operation::GetLock { ino, ref lock } => self.get_lock(at, ino, me(lock.owner), lock),
            Operation::CancelLock { ino, ref lock } => {
                when(Errno::EINVAL, lock.kind == LockKind::Unlock)?;
                let granted = |held: &Lock| {
                    held.kind == lock.kind && held.start <= lock.start && lock.end <= held.end
                };
                let owner = me(lock.owner);
                let held = self.locks.held.get(&(ino.0, owner));
                let held = held.is_some_and(|steps| list(owner, steps).iter().any(granted));
                let waited = self.locks.forget(ino.0, owner, lock);
                Ok(if held && !waited { Reply::Locked { any: true } } else { Reply::Done })
            }
            Operation::ReleaseLocks { ino, owner } => {
                self.locks.release(|file, other| (file, other) == (ino.0, me(owner)));
                Ok(Reply::Done)
            }
            ref other => panic!("{other:?} is not about locks"),
        }
    }

    fn set_lock(
        &mut self,
        at: Circumstances<'_>,
        ino: Ino,
        me: Owner,
        lock: &Lock,
        wait: bool,
    ) -> Outcome {
        let file = self.file(ino)?;
        let unlock = lock.kind == LockKind::Unlock;
        when(Errno::EISDIR, !unlock && file.stat.kind == FileType::Directory)?;
        when(Errno::EINVAL, !unlock && file.stat.kind != FileType::Regular)?;
        when(Errno::EINVAL, lock.start > lock.end || lock.end > i64::MAX as u64)?;
        if !unlock {
            usable(at, file)?;
        }
        if unlock || self.locks.blockers(ino.0, me, lock).is_empty() {
            self.locks.forget(ino.0, me, lock);
            self.locks.take(ino.0, me, lock);
            self.locks.grant();
            return Ok(Reply::Locked { any: self.locks.held.contains_key(&(ino.0, me)) });
        }
        when(Errno::EAGAIN, !wait)?;
        if self.locks.deadlock(ino.0, me, lock) {
            self.locks.forget(ino.0, me, lock);
            return Err(Errno::EDEADLK);
        }
        let same = |wait: &Wait| (wait.ino, wait.owner, wait.lock) == (ino.0, me, *lock);
        if !self.locks.waits.iter().any(same) {
            self.locks.waits.push(Wait { owner: me, ino: ino.0, lock: *lock });
        }
        Ok(Reply::Waiting)
    }

    fn get_lock(&self, at: Circumstances<'_>, ino: Ino, me: Owner, lock: &Lock) -> Outcome {
        let file = self.file(ino)?;
        readable(file)?;
        when(Errno::EINVAL, lock.start > lock.end || lock.end > i64::MAX as u64)?;
        usable(at, file)?;
        let mut found = self.locks.blockers(ino.0, me, lock);
        if lock.kind == LockKind::Unlock {
            let own = self.locks.held.get(&(ino.0, me)).map(|steps| list(me, steps));
            let own = own.unwrap_or_default().into_iter().filter(|held| overlap(held, lock));
            found = own.map(|held| (me, held)).collect();
        }
        let order = |held: &(Owner, Lock)| {
            let (owner, Lock { start, end, kind, pid, .. }) = *held;
            (start, end, kind == LockKind::Write, owner, pid)
        };
        let first = found.into_iter().min_by_key(order);
        Ok(Reply::Conflict(first.map(|(owner, held)| {
            if owner.0 == at.session { held } else { Lock { owner: 0, pid: 0, ..held } }
        })))
    }
}
