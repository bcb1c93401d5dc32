//! A replica begins to lie under load.

use std::fmt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bftfs_adversary::Role;
use bftfs_dev::Lie;
use rustix::process::Signal;
use serde::Serialize;

use super::Place;
use super::kill::ms;
use super::load::{Load, longest_pause, rate};
use super::site::Site;
use crate::interrupt;

/// Time in which caches and connections warm up.
const WARM_UP: Duration = Duration::from_secs(1);
/// Clusters that are tried until one still has its first primary when the lie is to begin.
const ATTEMPTS: usize = 3;

/// One measurement: before a replica lies, and from then on.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    /// Calls per second while all are honest.
    pub honest_rate: f64,
    /// Calls per second from the first lie on.
    pub lying_rate: f64,
    /// Calls per second in the second half of that time.
    pub settled_rate: f64,
    /// From the first lie to the end of the first call that was begun after it.
    pub resumed_ms: f64,
    /// The longest time without any call done from the first lie on.
    pub pause_ms: f64,
    /// Views that were left.
    pub views: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} calls/s, then {:.0}, then {:.0}; next call after {:.0} ms, pause {:.0} ms, {} \
             views left",
            self.honest_rate,
            self.lying_rate,
            self.settled_rate,
            self.resumed_ms,
            self.pause_ms,
            self.views
        )
    }
}

/// Measures for `seconds` before, and as long after a replica in that place begins to play `role`.
pub(super) fn measure(dir: &Path, role: Role, place: Place, seconds: u16) -> Result<Sample> {
    for _ in 0..ATTEMPTS {
        if let Some(sample) = attempt(dir, role, place, seconds)? {
            return Ok(sample);
        }
    }
    bail!("the primary was changed before anybody lied, {ATTEMPTS} times: is the machine busy?")
}

/// `None` if there was a view change before anybody lied.
fn attempt(dir: &Path, role: Role, place: Place, seconds: u16) -> Result<Option<Sample>> {
    let liar = match place {
        Place::Primary => 0,
        Place::Backup => 2,
    };
    let lie = Lie { role: role.to_string(), on_signal: true };
    let site = Site::new(dir, [(liar, lie)].into())?;
    let load = Load::start(site.mount.point())?;
    let window = Duration::from_secs(seconds.into());
    pause(WARM_UP)?;
    let begin = Instant::now();
    pause(window)?;
    let before = site.latest()?;
    if before.view != 0 {
        return Ok(None);
    }
    let moment = Instant::now();
    site.cluster.replica(liar)?.signal(Signal::USR1)?;
    pause(window)?;
    let end = Instant::now();
    let resumed = load.resumed(moment)?;
    let after = site.latest()?;
    let done = load.stop()?;
    Ok(Some(Sample {
        honest_rate: rate(&done, begin, moment),
        lying_rate: rate(&done, moment, end),
        settled_rate: rate(&done, moment + window / 2, end),
        resumed_ms: ms(resumed),
        pause_ms: ms(longest_pause(&done, moment, end)),
        views: after.view - before.view,
    }))
}

fn pause(duration: Duration) -> Result<()> {
    thread::sleep(duration);
    interrupt::check()
}
