//! Calls that wait for a lock.
//!
//! The replicas know who waits and grant in order. A call that waits asks them again when they say
//! that it is its turn, and from time to time, for they may not be heard; until it has the lock or
//! its process has a signal to attend to. It waits through times without replicas: a wait has no end.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bftfs_fs::{Credentials, Ino, Lock, Operation, nudged_file};

use super::super::interrupts;
use super::super::timer::Ticket;
use super::super::wire::{Cancelled, Granted};
use super::super::{Cluster, Error, Prepared, Process, Then, Volume};
use super::holds;
use super::owners::{Holds, Owner};

/// How long a wait goes on before it asks again, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the replicas may take to say whether an interrupted call has its lock after all; and
/// how long after a failure they are asked again to let go.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// Tells the kernel.
type Reply = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Who waits for what.
pub(super) struct Waiter {
    pub(super) process: Process,
    pub(super) who: Credentials,
    pub(super) owner: Owner,
    pub(super) lock: Lock,
}

/// A call that waits.
struct Wait {
    waiter: Waiter,
    state: Mutex<State>,
}

struct State {
    reply: Option<Reply>,
    /// A question is under way.
    asking: bool,
    /// It is to be asked again as soon as that is answered.
    hurry: bool,
    interrupted: bool,
    watched: bool,
    pause: Duration,
    /// When it asks again.
    next: Option<Ticket>,
}

/// The calls that wait, by file.
#[derive(Default)]
pub(super) struct Waits {
    table: Mutex<HashMap<Ino, Vec<Arc<Wait>>>>,
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waits: usize = self.lock().values().map(Vec::len).sum();
        f.debug_struct("Waits").field("waits", &waits).finish()
    }
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, HashMap<Ino, Vec<Arc<Wait>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, wait: &Arc<Wait>) {
        self.lock().entry(wait.waiter.owner.ino).or_default().push(Arc::clone(wait));
    }

    fn remove(&self, wait: &Arc<Wait>) {
        let mut table = self.lock();
        if let Some(waits) = table.get_mut(&wait.waiter.owner.ino) {
            waits.retain(|other| !Arc::ptr_eq(other, wait));
            if waits.is_empty() {
                table.remove(&wait.waiter.owner.ino);
            }
        }
    }

    fn of(&self, ino: Ino) -> Vec<Arc<Wait>> {
        self.lock().get(&ino).cloned().unwrap_or_default()
    }
}

impl Wait {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the kernel, once.
    fn reply(&self, result: Result<(), Error>) {
        let reply = self.state().reply.take();
        reply.into_iter().for_each(|reply| reply(result));
    }
}

impl<C: Cluster> Volume<C> {
    /// Asks with `request` for a lock, and again until it is granted.
    pub(super) fn wait_for_lock(&self, request: Prepared, waiter: Waiter, then: impl Then<()>) {
        let state = State {
            reply: Some(Box::new(then)),
            asking: true,
            hurry: false,
            interrupted: false,
            watched: false,
            pause: PAUSE,
            next: None,
        };
        let wait = Arc::new(Wait { waiter, state: Mutex::new(state) });
        self.inner.locks.waits.insert(&wait);
        let volume = self.clone();
        self.send(request, move |answer| volume.lock_answered(&wait, answer));
    }

    /// The replicas say that those who wait for a lock of a file may have it: they ask at once.
    pub fn nudged(&self, about: &[u8]) {
        let Some(ino) = nudged_file(about) else { return };
        for wait in self.inner.locks.waits.of(ino) {
            let mut state = wait.state();
            state.hurry |= state.asking;
            let next = state.next.take().and_then(|next| self.inner.timer.take(next));
            drop(state);
            next.into_iter().for_each(|ask| ask());
        }
    }

    fn ask_for_lock(&self, wait: &Arc<Wait>) {
        let mut state = wait.state();
        state.asking = true;
        state.next = None;
        drop(state);
        let Waiter { who, owner, lock, .. } = &wait.waiter;
        let operation = Operation::SetLock { ino: owner.ino, lock: *lock, wait: true };
        let (volume, asked) = (self.clone(), Arc::clone(wait));
        self.ask_free(who.clone(), operation, move |answer| {
            volume.lock_answered(&asked, answer);
        });
    }

    fn lock_answered(&self, wait: &Arc<Wait>, answer: Result<Granted, Error>) {
        if !matches!(answer, Ok(Granted::NotYet) | Err(Error::TIMEDOUT)) {
            let holds = holds(&answer);
            return self.end_wait(wait, answer.map(drop), holds);
        }
        let mut state = wait.state();
        state.asking = false;
        if state.interrupted {
            drop(state);
            return self.cancel_lock(wait);
        }
        let pause = if state.hurry { Duration::ZERO } else { state.pause };
        state.hurry = false;
        state.pause = (state.pause * 2).min(PAUSE_MAX);
        let (volume, again) = (self.clone(), Arc::clone(wait));
        let ask = Box::new(move || volume.ask_for_lock(&again));
        state.next = Some(self.inner.timer.after(pause, ask));
        let first = !std::mem::replace(&mut state.watched, true);
        drop(state);
        if first {
            self.watch_for_signals(wait);
        }
    }

    fn watch_for_signals(&self, wait: &Arc<Wait>) {
        let (volume, this) = (self.clone(), Arc::clone(wait));
        let interrupted = Box::new(move || volume.interrupt_wait(&this));
        let this = Arc::clone(wait);
        let waits = move || this.state().reply.is_some();
        interrupts::watch(&self.inner.timer, wait.waiter.process.pid, waits, interrupted);
    }

    /// The process is not to wait any longer, but it must know whether it has the lock.
    fn interrupt_wait(&self, wait: &Arc<Wait>) {
        let mut state = wait.state();
        state.interrupted = true;
        let asking = state.asking;
        let next = state.next.take().and_then(|next| self.inner.timer.take(next));
        drop(state);
        if !asking {
            drop(next);
            self.cancel_lock(wait);
        }
        // Without replicas nobody knows. If it gets the lock yet, that goes when the file is closed.
        let this = Arc::clone(wait);
        self.inner.timer.after(LATE, Box::new(move || this.reply(Err(Error::INTR))));
    }

    fn cancel_lock(&self, wait: &Arc<Wait>) {
        let Waiter { who, owner, lock, .. } = &wait.waiter;
        let operation = Operation::CancelLock { ino: owner.ino, lock: *lock };
        let (volume, this) = (self.clone(), Arc::clone(wait));
        self.ask_free(who.clone(), operation, move |answer| match answer {
            Ok(Cancelled { granted: true }) => volume.end_wait(&this, Ok(()), Holds::Perhaps),
            Ok(_) => volume.end_wait(&this, Err(Error::INTR), Holds::Same),
            Err(_) => volume.end_wait(&this, Err(Error::INTR), Holds::Perhaps),
        });
    }

    fn end_wait(&self, wait: &Arc<Wait>, result: Result<(), Error>, holds: Holds) {
        self.inner.locks.waits.remove(wait);
        self.told(wait.waiter.owner, holds);
        wait.reply(result);
    }
}
