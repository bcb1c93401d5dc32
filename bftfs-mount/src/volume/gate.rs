//! Bounds what a mount holds in memory for requests that the cluster has not answered.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests that may be with the cluster at once. No more than replicas hold for one client.
pub const REQUESTS_MAX: usize = 1024;
/// Bytes of them. Half of what replicas hold for one client, which may have two mounts.
pub const BYTES_MAX: usize = 64 << 20;

const _: () = assert!(REQUESTS_MAX <= bftfs_proto::config::CLIENT_PENDING_REQUESTS_MAX);
const _: () = assert!(BYTES_MAX <= bftfs_proto::config::CLIENT_PENDING_BYTES_MAX);
const _: () = assert!(BYTES_MAX >= bftfs_proto::config::OPERATION_BYTES_MAX, "one always fits");

/// Counts requests and their bytes. Beyond the bound, whoever fetches requests from the kernel
/// waits: the rest stay in the kernel's own queue. The wait ends, as each request inside does,
/// at the latest with its deadline.
#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<Load>,
    left: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    requests: usize,
    bytes: usize,
}

/// A request's place inside; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    /// Enters with a request of `bytes`, waiting while it is full inside.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Permit {
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |load: &mut Load| {
            load.requests >= REQUESTS_MAX || load.bytes.saturating_add(bytes) > BYTES_MAX
        };
        let mut inside = self.left.wait_while(inside, full).unwrap_or_else(PoisonError::into_inner);
        inside.requests += 1;
        inside.bytes += bytes;
        Permit { gate: Arc::clone(self), bytes }
    }

    /// Waits until nothing is inside; false if that takes longer than `patience`.
    pub(super) fn wait_idle(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        while inside.requests > 0 {
            let Some(rest) = end.checked_duration_since(Instant::now()) else { return false };
            let woken = self.left.wait_timeout(inside, rest);
            inside = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.gate.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.requests -= 1;
        inside.bytes -= self.bytes;
        drop(inside);
        self.gate.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn whoever_finds_it_full_waits_for_room() {
        let gate = Arc::new(Gate::default());
        let mut inside: Vec<Permit> =
            (0..BYTES_MAX / (1 << 20)).map(|_| gate.enter(1 << 20)).collect();
        let waiter = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || drop(gate.enter(1)))
        };
        thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        inside.pop();
        waiter.join().expect("enters");
        assert!(!gate.wait_idle(Duration::from_millis(5)));
        drop(inside);
        assert!(gate.wait_idle(Duration::ZERO));
        assert_eq!(*gate.inside.lock().expect("lock"), Load::default());
    }
}
