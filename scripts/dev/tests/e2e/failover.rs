//! Whoever is away, the primary too: the others go on.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bftfs_dev::{Counters, Mode};
use rustix::process::Signal;

use crate::crashes::backup;
use crate::lab::{Lab, with_cluster};
use crate::workload::{Ledger, Load};

/// Time in which a view change is done, and what was missed is caught up with.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rounds of the load that show that it goes on.
const ROUNDS: u64 = 20;

#[test]
fn work_goes_on_without_the_primary_and_without_the_next_one() {
    with_cluster(4, |lab| {
        let mount = lab.mount("mnt", Mode::Strict)?;
        let load = Load::start(mount.point());
        goes_on(&load)?;
        for _ in 0..2 {
            let primary = primary(lab)?;
            lab.cluster.kill(primary)?;
            goes_on(&load)?;
            ensure!(self::primary(lab)? != primary, "another replica is the primary");
            lab.cluster.restart(primary)?;
            catches_up(lab, primary)?;
        }
        nothing_is_lost(lab, &load.stop(), mount.point())
    });
}

#[test]
fn work_goes_on_while_the_primary_is_stopped() {
    with_cluster(4, |lab| goes_on_while_stopped(lab, primary(lab)?));
}

#[test]
fn work_goes_on_while_a_backup_is_stopped() {
    with_cluster(4, |lab| goes_on_while_stopped(lab, backup(lab)?));
}

fn goes_on_while_stopped(lab: &Lab, id: u32) -> Result<()> {
    let mount = lab.mount("mnt", Mode::Strict)?;
    let load = Load::start(mount.point());
    goes_on(&load)?;
    lab.cluster.replica(id)?.signal(Signal::STOP)?;
    goes_on(&load)?;
    lab.cluster.replica(id)?.signal(Signal::CONT)?;
    catches_up(lab, id)?;
    goes_on(&load)?;
    nothing_is_lost(lab, &load.stop(), mount.point())
}

#[test]
fn a_replica_that_restarts_in_a_view_change_stays_in_it() {
    with_cluster(4, |lab| {
        let mount = lab.mount("mnt", Mode::Strict)?;
        let load = Load::start(mount.point());
        goes_on(&load)?;
        // Two are enough to leave a view, and too few to begin one.
        let view = counters(lab, 3)?.view;
        let stopped = [primary(lab)?, backup(lab)?];
        for id in stopped {
            lab.cluster.replica(id)?.signal(Signal::STOP)?;
        }
        let others: Vec<u32> = (0..4).filter(|id| !stopped.contains(id)).collect();
        for id in &others {
            wait_until(|| counters(lab, *id).is_ok_and(|c| c.view > view && !c.active))
                .context("they change views")?;
        }
        let promised = counters(lab, others[0])?.view;
        lab.cluster.kill(others[0])?;
        lab.cluster.restart(others[0])?;
        let after = counters(lab, others[0])?;
        ensure!(after.view >= promised && !after.active, "it is where it was: {after:?}");

        lab.cluster.replica(stopped[1])?.signal(Signal::CONT)?;
        goes_on(&load)?;
        lab.cluster.replica(stopped[0])?.signal(Signal::CONT)?;
        goes_on(&load)?;
        for id in 0..4 {
            catches_up(lab, id)?;
        }
        nothing_is_lost(lab, &load.stop(), mount.point())
    });
}

/// The primary of the latest view that a replica knows of.
fn primary(lab: &Lab) -> Result<u32> {
    let known = lab.cluster.status().into_iter().filter_map(|replica| replica.counters);
    let latest = known.max_by_key(|counters| counters.view).context("a replica answers")?;
    Ok(latest.primary)
}

fn counters(lab: &Lab, id: u32) -> Result<Counters> {
    lab.cluster.status_of(id).counters.with_context(|| format!("replica {id} does not answer"))
}

fn goes_on(load: &Load) -> Result<()> {
    let enough = load.rounds() + ROUNDS;
    wait_until(|| load.rounds() >= enough).context("the load goes on")
}

/// Waits until replica `id` has executed what the others had executed when this was called, and is
/// in a view that has begun.
pub(crate) fn catches_up(lab: &Lab, id: u32) -> Result<()> {
    let target = lab.executed().into_iter().flatten().max().context("a replica answers")?;
    wait_until(|| counters(lab, id).is_ok_and(|c| c.last_executed >= target && c.active))
        .with_context(|| format!("replica {id} catches up to {target}: {:?}", counters(lab, id)))
}

fn nothing_is_lost(lab: &Lab, ledger: &Ledger, point: &Path) -> Result<()> {
    assert_eq!(ledger.failures, [""; 0], "requests wait, and do not fail");
    let executed = lab.executed().into_iter().flatten().max().context("replicas answer")?;
    lab.wait_until_level(executed, PATIENCE)?;
    ledger.verify(point)
}

fn wait_until(done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() >= deadline {
            bail!("not within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
