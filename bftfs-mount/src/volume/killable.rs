//! Calls whose process is killed end, whatever the replicas do.
//!
//! The kernel keeps a process until its call is answered, also one that was killed. So a call that
//! takes long is answered when its thread ends. The replicas may carry it out all the same; what it
//! would have got is given back.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::interrupts;
use super::{Cluster, Error, Process, Then, Volume};

/// How long a call is left alone: most are answered by then, and cost no look at their thread.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to look after that.
const PAUSE: Duration = Duration::from_millis(100);

/// The calls that are not answered.
#[derive(Default)]
pub(super) struct Calls {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// In the order in which they came. Some are answered.
    recent: VecDeque<Call>,
    late: Vec<Call>,
    /// Somebody will look at them.
    planned: bool,
}

#[derive(Clone)]
struct Call {
    since: Instant,
    thread: u32,
    answer: Weak<dyn Killable>,
}

trait Killable: Send + Sync {
    /// Answers that the call was interrupted, unless it was answered.
    fn kill(&self);
}

type Reply<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// What to do with an answer, until there is one.
struct Unanswered<T>(Mutex<Option<Reply<T>>>);

impl<T> Unanswered<T> {
    fn take(&self) -> Option<Reply<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Killable for Unanswered<T> {
    fn kill(&self) {
        let then = self.take();
        then.into_iter().for_each(|then| then(Err(Error::INTR)));
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("late", &self.lock().late.len()).finish_non_exhaustive()
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a call; true if somebody must be found to look at it.
    #[must_use]
    fn insert(&self, thread: u32, answer: Weak<dyn Killable>) -> bool {
        let mut table = self.lock();
        while table.recent.front().is_some_and(Call::is_answered) {
            table.recent.pop_front();
        }
        table.recent.push_back(Call { since: Instant::now(), thread, answer });
        !std::mem::replace(&mut table.planned, true)
    }

    /// Those that are late, and when to look again.
    fn late(&self) -> (Vec<Call>, Option<Duration>) {
        let (mut table, now) = (self.lock(), Instant::now());
        while let Some(call) = table.recent.front()
            && (call.is_answered() || now.duration_since(call.since) >= PATIENCE)
        {
            let call = table.recent.pop_front();
            table.late.extend(call);
        }
        table.late.retain(|call| !call.is_answered());
        let late = table.late.clone();
        let pause = if late.is_empty() { PATIENCE } else { PAUSE };
        table.planned = !(late.is_empty() && table.recent.is_empty());
        (late, table.planned.then_some(pause))
    }
}

impl Call {
    fn is_answered(&self) -> bool {
        self.answer.strong_count() == 0
    }
}

impl<C: Cluster> Volume<C> {
    /// What to do with an answer for which the thread of `process` waits: `then`, unless it is
    /// killed before. In that case `then` is told so at once, and what comes later is given to
    /// `unwanted`.
    pub fn killable<T, N, U>(
        &self,
        process: Process,
        then: N,
        unwanted: U,
    ) -> impl Then<T> + use<C, T, N, U>
    where
        T: 'static,
        N: Then<T>,
        U: FnOnce(T) + Send + 'static,
    {
        let call = Arc::new(Unanswered(Mutex::new(Some(Box::new(then)))));
        // A thread out of sight (of another PID namespace, or the kernel's) cannot be seen to end.
        if process.pid != 0 {
            let weak: Weak<dyn Killable> =
                Arc::downgrade(&(Arc::clone(&call) as Arc<dyn Killable>));
            if self.inner.calls.insert(process.pid, weak) {
                self.look_later(PATIENCE);
            }
        }
        move |result| match (call.take(), result) {
            (Some(then), result) => then(result),
            (None, Ok(unneeded)) => unwanted(unneeded),
            (None, Err(_)) => {}
        }
    }

    fn look_later(&self, pause: Duration) {
        let inner = Arc::downgrade(&self.inner);
        let look = move || {
            if let Some(inner) = inner.upgrade() {
                Self { inner }.look_at_calls();
            }
        };
        self.inner.timer.after(pause, Box::new(look));
    }

    fn look_at_calls(&self) {
        let (late, pause) = self.inner.calls.late();
        for call in late.iter().filter(|call| interrupts::ends(call.thread)) {
            let answer = call.answer.upgrade();
            answer.into_iter().for_each(|answer| answer.kill());
        }
        pause.into_iter().for_each(|pause| self.look_later(pause));
    }
}
