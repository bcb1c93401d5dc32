//! The clocks that the core is handed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bftfs_proto::types::{Mono, Now, Wall};

/// Both clocks of this process. Monotonic time counts from the making of the clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock {
    /// Reads both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: Mono(nanos(self.start.elapsed())), wall: Wall(nanos(wall)) }
    }

    /// The moment that `mono` stands for.
    #[must_use]
    pub fn instant(&self, mono: Mono) -> Instant {
        self.start + Duration::from_nanos(mono.0)
    }
}

/// A duration in nanoseconds; 584 years at most.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
