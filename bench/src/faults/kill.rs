//! The primary is killed under load, again and again.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;
use serde::Serialize;

use super::load::{Load, longest_pause};
use super::site::Site;
use crate::progress::Progress;
use crate::stats::Summary;

/// Time in which the cluster is left alone between two kills.
const CALM: Duration = Duration::from_millis(500);

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Killed {
    /// From SIGKILL of the primary to the end of the first call that was begun after it.
    pub resumed_ms: Summary,
    /// The longest time without any call done, from the kill until calm after that.
    pub pause_ms: Summary,
    /// Every measurement of the first kind.
    pub samples_ms: Vec<f64>,
}

/// Kills the primary `kills` times; each is started again before the next is killed.
pub(super) fn measure(dir: &Path, kills: usize) -> Result<Killed> {
    let site = Site::new(dir, [].into())?;
    let load = Load::start(site.mount.point())?;
    let progress = Progress::new(kills);
    let mut moments = Vec::with_capacity(kills);
    for number in 1..=kills {
        site.settle()?;
        thread::sleep(CALM);
        let primary = site.latest()?.primary;
        let label = format!("kill {number}: replica {primary}");
        progress.begin(&label);
        let moment = Instant::now();
        site.cluster.replica(primary)?.signal(Signal::KILL)?;
        let resumed = load.resumed(moment)?;
        progress.end(&format!("{label}: {:.0} ms", ms(resumed)));
        moments.push((moment, resumed));
        thread::sleep(CALM);
        site.cluster.restart(primary)?;
    }
    let done = load.stop()?;
    let samples_ms: Vec<f64> = moments.iter().map(|(_, resumed)| ms(*resumed)).collect();
    let pause = |(moment, resumed): &(Instant, Duration)| {
        ms(longest_pause(&done, *moment, *moment + *resumed + CALM))
    };
    let pauses: Vec<f64> = moments.iter().map(pause).collect();
    let summary = |samples: &[f64]| Summary::of(samples).expect("kills are at least one");
    Ok(Killed { resumed_ms: summary(&samples_ms), pause_ms: summary(&pauses), samples_ms })
}

pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
