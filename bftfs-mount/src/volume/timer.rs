//! Things to do later, done by one thread that sleeps in between.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::files::Action;

/// Does actions at their time, one after the other. None may wait for long. What is still to come
/// is forgotten when the timer is dropped.
pub(super) struct Timer {
    shared: Arc<Shared>,
}

/// Names an action that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(Instant, u64);

#[derive(Default)]
struct Shared {
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Default)]
struct Plan {
    actions: BTreeMap<Ticket, Action>,
    last: u64,
    ended: bool,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("actions", &self.shared.lock().actions.len()).finish()
    }
}

impl Default for Timer {
    fn default() -> Self {
        let shared = Arc::<Shared>::default();
        let work = Arc::clone(&shared);
        thread::spawn(move || work.run());
        Self { shared }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut plan = self.shared.lock();
        plan.ended = true;
        // Actions may own what owns this timer.
        let forgotten = std::mem::take(&mut plan.actions);
        drop(plan);
        self.shared.changed.notify_one();
        drop(forgotten);
    }
}

impl Timer {
    /// Does `action` after `delay`.
    pub(super) fn after(&self, delay: Duration, action: Action) -> Ticket {
        let mut plan = self.shared.lock();
        plan.last += 1;
        let ticket = Ticket(Instant::now() + delay, plan.last);
        plan.actions.insert(ticket, action);
        drop(plan);
        self.shared.changed.notify_one();
        ticket
    }

    /// Takes an action back, unless it was done or is being done.
    pub(super) fn take(&self, ticket: Ticket) -> Option<Action> {
        self.shared.lock().actions.remove(&ticket)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut plan = self.lock();
        while !plan.ended {
            let now = Instant::now();
            let next = plan.actions.keys().next().copied();
            plan = match next {
                None => self.changed.wait(plan).unwrap_or_else(PoisonError::into_inner),
                Some(Ticket(due, _)) if due > now => {
                    let woken = self.changed.wait_timeout(plan, due - now);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(ticket) => {
                    let action = plan.actions.remove(&ticket);
                    drop(plan);
                    action.into_iter().for_each(|action| action());
                    self.lock()
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn actions_are_done_in_the_order_of_their_times_and_may_be_taken_back() {
        let timer = Timer::default();
        let (done, order) = mpsc::channel();
        let action = |number: u32| -> Action {
            let done = done.clone();
            Box::new(move || done.send(number).expect("the test listens"))
        };
        let start = Instant::now();
        let taken = timer.after(Duration::from_millis(10), action(1));
        timer.after(Duration::from_millis(40), action(2));
        timer.after(Duration::from_millis(20), action(3));
        assert!(timer.take(taken).is_some());
        assert!(timer.take(taken).is_none());
        let order = [(); 2].map(|()| order.recv_timeout(Duration::from_secs(10)).expect("done"));
        assert_eq!(order, [3, 2]);
        assert!(start.elapsed() >= Duration::from_millis(40));
    }

    #[test]
    fn what_is_to_come_is_forgotten_with_the_timer() {
        let timer = Timer::default();
        let (done, forgotten) = mpsc::channel::<()>();
        timer.after(Duration::from_secs(1000), Box::new(move || drop(done)));
        drop(timer);
        assert_eq!(forgotten.recv(), Err(mpsc::RecvError), "it owned the other end");
    }
}
