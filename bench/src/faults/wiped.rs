//! A replica loses its disk, and its operator brings it back.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bftfs_dev::{Counters, ReplicaReport};
use bftfs_proto::config::CHECKPOINT_INTERVAL_SEQS;
use serde::Serialize;
use serde_json::Value;

use super::away::takes_part;
use super::load::{Load, rate};
use super::site::{Site, wait_for};
use crate::bytes::Bytes;
use crate::fill::{self, CHUNK_BYTES};
use crate::interrupt;
use crate::room::Room;
use crate::stats::Summary;

/// The replica that loses its disk, and one that is stopped to see that the first is back.
const WIPED: u32 = 3;
const OTHER: u32 = 2;
/// How long each thread of the load rests between two files. A replica may vote again only once the
/// others have gone on far enough, so there must be a load; but this is not about a full one.
const REST: Duration = Duration::from_millis(20);
/// Time that each step of a recovery may take.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Pause between two looks at the replica.
const POLL: Duration = Duration::from_millis(20);
/// Time after which it is told again how far the replica is.
const TELL: Duration = Duration::from_secs(5);
/// Bytes of the disks of four replicas per byte of files: a store and a journal each, and a second
/// store while one is written anew.
const DISK_FACTOR: u64 = 4 * 2;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Wiped {
    /// Bytes that the file system used when the disk was lost.
    pub state_bytes: u64,
    /// From the operator's command until the replica had the state that the others had.
    pub state_seconds: Summary,
    /// Bytes of messages that it received until then.
    pub state_bytes_received: Summary,
    /// What these messages were, in every loss: by kind, how many and their bytes.
    pub state_received: Vec<Value>,
    /// From the operator's command until it voted again.
    pub voting_seconds: Summary,
    /// Bytes of messages that it received until then, the load's among them.
    pub voting_bytes_received: Summary,
    /// Calls per second of the load meanwhile.
    pub load_rate: Summary,
}

/// One loss.
struct Loss {
    state: Moment,
    voting: Moment,
    load_rate: f64,
}

struct Moment {
    seconds: f64,
    bytes: u64,
    received: Value,
}

/// Fills a cluster and has a replica lose its disk `times` times.
pub(super) fn measure(dir: &Path, times: u16, state: Bytes) -> Result<Wiped> {
    let room = Room::of(dir);
    room.require(state.0 * DISK_FACTOR, &format!("four replicas with {state} of files"))?;
    let site = Site::new(dir, [].into())?;
    let files = usize::try_from(state.0)?.div_ceil(CHUNK_BYTES);
    fill::chunk_files("files of 1 MiB", site.mount.point(), 0..files, &room)?;
    bury(&site)?;
    site.settle()?;
    let state_bytes = site.used()?;
    let mut losses = Vec::new();
    for time in 1..=times {
        eprintln!("loss {time}: of {} of state", Bytes(state_bytes));
        let loss = once(&site, time)?;
        eprintln!(
            "loss {time}: its state is there after {:.2} s and {}, it votes after {:.2} s",
            loss.state.seconds,
            Bytes(loss.state.bytes),
            loss.voting.seconds
        );
        losses.push(loss);
    }
    let summary = |value: fn(&Loss) -> f64| {
        Summary::of(&losses.iter().map(value).collect::<Vec<_>>()).context("nothing was lost")
    };
    Ok(Wiped {
        state_bytes,
        state_seconds: summary(|loss| loss.state.seconds)?,
        state_bytes_received: summary(|loss| loss.state.bytes as f64)?,
        state_received: losses.iter().map(|loss| loss.state.received.clone()).collect(),
        voting_seconds: summary(|loss| loss.voting.seconds)?,
        voting_bytes_received: summary(|loss| loss.voting.bytes as f64)?,
        load_rate: summary(|loss| loss.load_rate)?,
    })
}

/// Goes on until the files lie before a stable checkpoint of every replica: then they are state, and
/// nothing that the others still have to send as requests.
fn bury(site: &Site) -> Result<()> {
    let (seq, start) = (site.executed()?, Instant::now());
    let path = site.mount.point().join("since");
    let stable = |replica: ReplicaReport| replica.counters.map_or(0, |c| c.last_stable);
    while site.cluster.status().into_iter().map(stable).min() < Some(seq) {
        interrupt::check()?;
        ensure!(start.elapsed() < PATIENCE, "no checkpoint after {seq} becomes stable");
        fs::write(&path, "since").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn once(site: &Site, time: u16) -> Result<Loss> {
    let work = site.mount.point().join(format!("load-{time}"));
    fs::create_dir(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let load = Load::paced(&work, REST)?;
    site.cluster.kill(WIPED)?;
    let data = site.cluster.replica_dir(WIPED).join("data");
    fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;

    let target = site.executed()?;
    let (start, over) = (Instant::now(), AtomicBool::new(false));
    let (state, voting) = thread::scope(|scope| {
        let watcher = scope.spawn(|| state_is_there(site, target, start, &over));
        let told = |step: &str| eprintln!("replica {WIPED}: {step}");
        let recovered = site.cluster.recover_within(WIPED, PATIENCE, interrupt::check, told);
        let voting = recovered.and_then(|()| moment(start, &status(site)?));
        over.store(voting.is_err(), Ordering::Relaxed);
        let state = watcher.join().map_err(|_| anyhow!("the watcher panicked"))?;
        // Why it was given up, rather than that it was.
        let voting = voting?;
        anyhow::Ok((state?, voting))
    })?;
    let end = Instant::now();
    let load_rate = rate(&load.stop()?, start, end);
    takes_part(site, OTHER)?;
    site.settle()?;
    Ok(Loss { state, voting, load_rate })
}

fn status(site: &Site) -> Result<Counters> {
    wait_for("the replica does not answer", || site.cluster.status_of(WIPED).counters)
}

fn moment(start: Instant, counters: &Counters) -> Result<Moment> {
    let received = counters.other.get("counters").and_then(|counters| counters.get("received"));
    let received = received.cloned().unwrap_or_default();
    let (seconds, bytes) = (start.elapsed().as_secs_f64(), counters.bytes_received);
    Ok(Moment { seconds, bytes, received })
}

/// Waits until the replica has executed what the others had at the start, and is no further behind
/// them than a checkpoint.
fn state_is_there(site: &Site, target: u64, start: Instant, over: &AtomicBool) -> Result<Moment> {
    let mut told = start;
    while start.elapsed() < PATIENCE {
        if over.load(Ordering::Relaxed) {
            bail!("it was given up");
        }
        let counters = site.cluster.status_of(WIPED).counters;
        if told.elapsed() >= TELL
            && let Some(counters) = &counters
        {
            told = Instant::now();
            eprintln!("replica {WIPED}: {} received", Bytes(counters.bytes_received));
        }
        if let Some(counters) = counters.filter(|counters| has_state(counters, target))
            && counters.last_executed + CHECKPOINT_INTERVAL_SEQS >= site.executed()?
        {
            return moment(start, &counters);
        }
        thread::sleep(POLL);
    }
    bail!("the state of replica {WIPED} was not there within {PATIENCE:?}")
}

fn has_state(counters: &Counters, target: u64) -> bool {
    let transferring = counters.other.get("transferring").and_then(Value::as_bool);
    transferring == Some(false) && counters.last_executed >= target
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replica_that_still_fetches_has_no_state() {
        let at = |last_executed: u64, transferring: bool| {
            let status = json!({"last_executed": last_executed, "transferring": transferring});
            serde_json::from_value::<Counters>(status).expect("a status")
        };
        assert!(has_state(&at(7, false), 7));
        assert!(!has_state(&at(7, true), 7));
        assert!(!has_state(&at(6, false), 7));
        assert!(!has_state(&Counters::default(), 0), "a mount has none either");
    }
}
