//! Replicas that are killed and started again.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::{DevCluster, Mode, UpOptions};
use rustix::process::Signal;

use crate::lab::{Lab, with_cluster, with_options};
use crate::workload::Load;

/// Time that a replica has to execute what it missed.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_backup_that_is_killed_under_load_catches_up() {
    with_cluster(4, |lab| {
        let mount = lab.mount("mnt", Mode::Strict)?;
        let load = Load::start(mount.point());
        let backup = backup(lab)?;
        thread::sleep(Duration::from_secs(1));
        lab.cluster.kill(backup)?;
        let before = load.rounds();
        thread::sleep(Duration::from_secs(4));
        ensure!(load.rounds() > before, "three of four replicas make progress");
        lab.cluster.restart(backup)?;
        thread::sleep(Duration::from_secs(2));

        let ledger = load.stop();
        assert_eq!(ledger.failures, [""; 0], "the workload notices nothing");
        let executed = lab.executed().into_iter().flatten().max().context("replicas answer")?;
        lab.wait_until_level(executed, CATCH_UP_PATIENCE)?;
        ledger.verify(mount.point())
    });
}

#[test]
fn a_backup_that_is_away_for_long_fetches_the_state() {
    with_cluster(4, |lab| {
        let mount = lab.mount("mnt", Mode::Strict)?;
        let backup = backup(lab)?;
        lab.cluster.kill(backup)?;
        // More sequence numbers than the log of the others keeps.
        let load = Load::start(mount.point());
        let enough = 4 * bftfs_proto::config::WINDOW_SEQS;
        let ledger = loop {
            thread::sleep(Duration::from_millis(200));
            if lab.executed().into_iter().flatten().max() > Some(enough) {
                break load.stop();
            }
        };
        assert_eq!(ledger.failures, [""; 0]);
        lab.cluster.restart(backup)?;
        lab.wait_until_level(enough, CATCH_UP_PATIENCE)?;
        ledger.verify(mount.point())
    });
}

#[test]
fn a_primary_that_is_killed_and_restarted_loses_nothing() {
    with_cluster(4, |lab| {
        let mount = lab.mount("mnt", Mode::Strict)?;
        let load = Load::start(mount.point());
        thread::sleep(Duration::from_secs(1));
        let status = lab.cluster.status_of(0).counters.context("replica 0 answers")?;
        lab.cluster.kill(status.primary)?;
        thread::sleep(Duration::from_secs(2));
        lab.cluster.restart(status.primary)?;
        let before = load.rounds();
        thread::sleep(Duration::from_secs(3));
        ensure!(load.rounds() > before + 10, "it goes on once the primary is back");

        let ledger = load.stop();
        assert_eq!(ledger.failures, [""; 0], "requests wait, and do not fail");
        let executed = lab.executed().into_iter().flatten().max().context("replicas answer")?;
        lab.wait_until_level(executed, CATCH_UP_PATIENCE)?;
        ledger.verify(mount.point())
    });
}

#[test]
fn all_four_killed_at_once_forget_nothing_that_was_acknowledged() {
    with_cluster(4, |lab| kill_all_under_load(lab, 3));
}

#[test]
fn the_unreplicated_server_killed_forgets_nothing_that_was_acknowledged() {
    with_cluster(1, |lab| kill_all_under_load(lab, 3));
}

#[test]
fn a_cluster_that_is_stopped_and_started_has_everything() {
    for replicas in [1, 4] {
        with_options(
            |options| options.replicas = replicas,
            |lab| {
                let mount = lab.mount("mnt", Mode::RoLookup)?;
                let load = Load::start(mount.point());
                thread::sleep(Duration::from_secs(2));
                let ledger = load.stop();
                assert_eq!(ledger.failures, [""; 0]);
                lab.cluster.down()?;
                ensure!(lab.cluster.pids().is_empty(), "all have ended");
                ensure!(!bftfs_dev::is_mounted(mount.point()), "nothing is mounted");

                let again = UpOptions { replicas, ..UpOptions::new(lab.cluster.dir()) };
                let again = DevCluster::up(&again)?;
                let mount = lab.mount("again", Mode::Strict)?;
                ledger.verify(mount.point())?;
                mount.unmount()?;
                again.down()
            },
        );
    }
}

fn kill_all_under_load(lab: &Lab, times: u32) -> Result<()> {
    let ids = 0..lab.cluster.replicas();
    let mount = lab.mount("mnt", Mode::Strict)?;
    for time in 0..times {
        let place = mount.point().join(format!("time-{time}"));
        fs::create_dir(&place)?;
        let load = Load::start(&place);
        thread::sleep(Duration::from_millis(1500));
        for id in ids.clone() {
            lab.cluster.replica(id)?.signal(Signal::KILL)?;
        }
        for id in ids.clone() {
            lab.cluster.restart(id)?;
        }
        thread::sleep(Duration::from_secs(2));
        let ledger = load.stop();
        ensure!(ledger.len() > 10, "little was done: {} files", ledger.len());
        ledger.verify(&place).with_context(|| format!("after kill {time}"))?;

        let fresh = lab.mount(&format!("fresh-{time}"), Mode::RoLookup)?;
        ledger.verify(&fresh.point().join(format!("time-{time}")))?;
        fresh.unmount()?;
    }
    let executed = lab.executed().into_iter().flatten().max().context("replicas answer")?;
    lab.wait_until_level(executed, CATCH_UP_PATIENCE)
}

/// A replica that is not the primary.
pub(crate) fn backup(lab: &Lab) -> Result<u32> {
    let status = lab.cluster.status_of(0).counters.context("replica 0 answers")?;
    Ok((status.primary + 1) % lab.cluster.replicas())
}
