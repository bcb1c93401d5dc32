//! A replica lies under load, on and off.

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

/// One measurement of one cluster.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    /// Calls per second while all are honest.
    pub honest_rate: f64,
    /// Calls per second while one lies.
    pub lying_rate: f64,
    /// Calls per second in the second half of each such time.
    pub settled_rate: f64,
    /// From the first lie to the end of the first call that was begun after it.
    pub resumed_ms: f64,
    /// The longest time without any call done while it lies for the first time.
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

/// A replica in that place plays `role` in every second of `2 * turns` windows.
pub(super) fn measure(
    dir: &Path,
    role: Role,
    place: Place,
    window: Duration,
    turns: u16,
) -> Result<Sample> {
    for _ in 0..ATTEMPTS {
        if let Some(sample) = attempt(dir, role, place, window, turns)? {
            return Ok(sample);
        }
    }
    bail!("the primary was changed before anybody lied, {ATTEMPTS} times: is the machine busy?")
}

/// `None` if there was a view change before anybody lied.
fn attempt(
    dir: &Path,
    role: Role,
    place: Place,
    window: Duration,
    turns: u16,
) -> Result<Option<Sample>> {
    let liar = match place {
        Place::Primary => 0,
        Place::Backup => 2,
    };
    let lie = Lie { role: role.to_string(), on_signal: true };
    let site = Site::new(dir, [(liar, lie)].into())?;
    let load = Load::start(site.mount.point())?;
    pause(WARM_UP)?;
    let mut spans = Vec::new();
    for turn in 0..turns {
        let honest = Instant::now();
        pause(window)?;
        if turn == 0 && site.latest()?.view != 0 {
            return Ok(None);
        }
        let lying = Instant::now();
        site.cluster.replica(liar)?.signal(Signal::USR1)?;
        pause(window)?;
        site.cluster.replica(liar)?.signal(Signal::USR1)?;
        spans.push(Spans { honest, lying, end: Instant::now() });
    }
    let Spans { lying, end, .. } = spans[0];
    let resumed = load.resumed(lying)?;
    let views = site.latest()?.view;
    let done = load.stop()?;
    let mean = |span: fn(&Spans) -> (Instant, Instant)| {
        let rates = spans.iter().map(span).map(|(from, to)| rate(&done, from, to));
        rates.sum::<f64>() / spans.len() as f64
    };
    Ok(Some(Sample {
        honest_rate: mean(|spans| (spans.honest, spans.lying)),
        lying_rate: mean(|spans| (spans.lying, spans.end)),
        settled_rate: mean(|spans| (spans.lying + (spans.end - spans.lying) / 2, spans.end)),
        resumed_ms: ms(resumed),
        pause_ms: ms(longest_pause(&done, lying, end)),
        views,
    }))
}

/// When a turn began, when its lies did, and when they ended.
#[derive(Clone, Copy)]
struct Spans {
    honest: Instant,
    lying: Instant,
    end: Instant,
}

fn pause(duration: Duration) -> Result<()> {
    thread::sleep(duration);
    interrupt::check()
}
