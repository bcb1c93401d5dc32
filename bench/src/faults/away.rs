//! A replica comes back after it missed many operations.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::Serialize;

use super::load::Load;
use super::site::{Site, wait_for};
use crate::clusters::operations;
use crate::progress::Progress;
use crate::stats::Summary;

/// The replica that is away, and one that is stopped to see that the first is back.
const AWAY: u32 = 3;
const OTHER: u32 = 2;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Away {
    /// From the start of its process until it had executed all that the others had.
    pub seconds: Summary,
    /// Bytes of messages that it received until then.
    pub bytes_received: Summary,
}

/// Kills a replica, lets it miss `operations`, and starts it again, `times` times.
pub(super) fn measure(dir: &Path, times: u16, operations: u64) -> Result<Away> {
    let progress = Progress::new(times.into());
    let (mut seconds, mut bytes) = (Vec::new(), Vec::new());
    for time in 1..=times {
        let label = format!("absence {time}");
        progress.begin(&label);
        let (took, received) = once(dir, operations)?;
        progress.end(&format!("{label}: {took:.2} s, {received} bytes"));
        seconds.push(took);
        bytes.push(received as f64);
    }
    let summary = |samples: &[f64]| Summary::of(samples).context("it was not away");
    Ok(Away { seconds: summary(&seconds)?, bytes_received: summary(&bytes)? })
}

fn once(dir: &Path, missed: u64) -> Result<(f64, u64)> {
    let site = Site::new(dir, [].into())?;
    site.settle()?;
    site.cluster.kill(AWAY)?;
    let asked = || operations(&site.mount.counters().ok()?.other);
    let before = asked().context("the mount counts no operations")?;
    let load = Load::start(site.mount.point())?;
    // As long as it takes.
    while asked().is_some_and(|now| now < before + missed) {
        crate::interrupt::check()?;
        thread::sleep(Duration::from_millis(100));
    }
    load.stop()?;
    let target = site.executed()?;
    let start = Instant::now();
    site.cluster.restart(AWAY)?;
    let counters = site.wait_for(AWAY, target)?;
    let took = start.elapsed().as_secs_f64();
    takes_part(&site, OTHER)?;
    Ok((took, counters.bytes_received))
}

/// With `other` stopped, nothing is done without the one that came back.
pub(super) fn takes_part(site: &Site, other: u32) -> Result<()> {
    site.cluster.replica(other)?.signal(Signal::STOP)?;
    let proof = site.mount.point().join("proof");
    let written = wait_for("nothing can be written", || fs::write(&proof, "proof").ok());
    site.cluster.replica(other)?.signal(Signal::CONT)?;
    written
}
