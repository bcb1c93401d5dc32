//! A replica's wall clock: apart from others', fast or slow, and set anew now and then. Monotonic
//! time is the same for all.

use bftfs_proto::types::Wall;
use fastrand::Rng;

use crate::faults::MILLI;

/// When the world begins, in nanoseconds since the epoch.
pub const EPOCH: u64 = 1_800_000_000_000_000_000;
/// How far a right clock may be off, in nanoseconds: any two are then less apart than replicas
/// bear with.
pub const SKEW_MAX: u64 = 900 * MILLI;
/// How far a wild clock may be off, in nanoseconds: ten years.
const WILD: i64 = 10 * 365 * 86_400 * 1_000_000_000;
/// The most that a clock gains or loses, in parts per million.
const DRIFT: i64 = 500;

/// A wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Nanoseconds ahead of virtual time when it began.
    offset: i64,
    /// Nanoseconds gained in a million.
    drift: i64,
}

impl Clock {
    /// A clock that is set within `skew` nanoseconds of virtual time.
    #[must_use]
    pub fn tame(rng: &mut Rng, skew: u64) -> Self {
        let skew = i64::try_from(skew).unwrap_or(0);
        Self { offset: rng.i64(-skew..=skew), drift: rng.i64(-DRIFT..=DRIFT) }
    }

    /// A clock that nobody sets: seconds to years off.
    #[must_use]
    pub fn wild(rng: &mut Rng) -> Self {
        let most = [3_000 * MILLI.cast_signed(), 100_000 * MILLI.cast_signed(), WILD];
        let most = most[rng.usize(0..most.len())];
        Self { offset: rng.i64(-most..=most), drift: rng.i64(-DRIFT..=DRIFT) }
    }

    /// The latest that any right clock shows then.
    #[must_use]
    pub fn latest(now: u64) -> Wall {
        let most = Self { offset: SKEW_MAX.cast_signed(), drift: DRIFT };
        most.wall(now)
    }

    /// What it shows `now` nanoseconds of virtual time after the world began.
    #[must_use]
    pub fn wall(&self, now: u64) -> Wall {
        let gained = now.cast_signed() * self.drift / 1_000_000;
        Wall((EPOCH + now).saturating_add_signed(self.offset + gained))
    }
}
