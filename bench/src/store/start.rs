//! How long a replica takes to start, after it was stopped and after it was killed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bftfs_fs::{Ino, ROOT};
use rustix::process::Signal;
use serde::Serialize;

use super::client::Client;
use super::site::Site;
use crate::interrupt;
use crate::stats::Summary;

/// How long a replica may take to write what it has to before it ends.
const PATIENCE: Duration = Duration::from_secs(600);
/// Operations since the last checkpoint when it is killed: what the journal has to tell. Fewer than
/// between two checkpoints.
const TAIL: usize = 100;
/// Bytes of each of them.
const TAIL_BYTES: usize = 4096;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Starts {
    pub(super) files: usize,
    /// From SIGTERM until the process was gone.
    pub(super) stop_seconds: Summary,
    /// From the start of the process until an operation was answered, after SIGTERM.
    pub(super) clean_seconds: Summary,
    /// The same after SIGKILL.
    pub(super) killed_seconds: Summary,
}

/// Stops and starts, kills and starts, `times` times. The site must not be mounted.
pub(super) fn measure(site: &Site, files: usize, times: u16) -> Result<Starts> {
    let (mut stop, mut clean, mut killed) = (Vec::new(), Vec::new(), Vec::new());
    let file = site.client()?.create(ROOT, "tail")?;
    for time in 1..=times {
        stop.push(end(site, Signal::TERM)?);
        clean.push(start(site)?);
        let contents = [u8::try_from(time % 251)?; TAIL_BYTES];
        write_tail(site, file, &contents)?;
        end(site, Signal::KILL)?;
        killed.push(start(site)?);
        let found = site.client()?.read(file, TAIL_BYTES)?;
        ensure!(found == contents, "what was acknowledged before the kill is lost");
        eprintln!(
            "start {time}: {:.2} s after a clean stop of {:.2} s, {:.2} s after a kill",
            clean[clean.len() - 1],
            stop[stop.len() - 1],
            killed[killed.len() - 1]
        );
    }
    let summary = |samples: &[f64]| Summary::of(samples).context("nothing was started");
    Ok(Starts {
        files,
        stop_seconds: summary(&stop)?,
        clean_seconds: summary(&clean)?,
        killed_seconds: summary(&killed)?,
    })
}

fn write_tail(site: &Site, file: Ino, contents: &[u8]) -> Result<()> {
    let client = site.client()?;
    site.settle(&client)?;
    (0..TAIL).try_for_each(|_| client.write(file, contents))
}

/// Ends the replica; tells how long that took.
fn end(site: &Site, signal: Signal) -> Result<f64> {
    let (process, start) = (site.process()?, Instant::now());
    process.signal(signal)?;
    while !process.ended_within(Duration::from_millis(100)) {
        interrupt::check()?;
        ensure!(start.elapsed() < PATIENCE, "the replica does not end within {PATIENCE:?}");
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Starts the replica; tells how long it took until a client had an answer.
fn start(site: &Site) -> Result<f64> {
    let start = Instant::now();
    site.start()?;
    let client: Client = site.client()?;
    client.null()?;
    Ok(start.elapsed().as_secs_f64())
}
