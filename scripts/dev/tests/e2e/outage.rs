//! More replicas away than the cluster tolerates: requests end, and the mount recovers.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bftfs_dev::{Mode, wait_until};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::crashes::backup;
use crate::lab::{Lab, MODES, with_cluster};

/// The deadline of the mount, as it is told.
const DEADLINE: &str = "3s";
/// What a request may take with it: the kernel makes up to three of one call.
const CALL_PATIENCE: Duration = Duration::from_secs(12);
/// A process that was killed is gone so soon.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// Time in which everything works again.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn requests_end_while_two_replicas_are_stopped() {
    with_cluster(4, |lab| {
        for mode in MODES {
            let mount = lab.mount_with(mode.name(), mode, &["--timeout", DEADLINE])?;
            let two = two_backups(lab)?;
            works(mount.point())?;
            for id in two {
                lab.cluster.replica(id)?.signal(Signal::STOP)?;
            }
            let ended = fails_in_time(mount.point());
            for id in two {
                lab.cluster.replica(id)?.signal(Signal::CONT)?;
            }
            ended?;
            recovers(mount.point())?;
            mount.unmount()?;
        }
        Ok(())
    });
}

#[test]
fn requests_end_while_two_replicas_are_dead() {
    with_cluster(4, |lab| {
        let mount = lab.mount_with("mnt", Mode::Strict, &["--timeout", DEADLINE])?;
        works(mount.point())?;
        let two = two_backups(lab)?;
        for id in two {
            lab.cluster.kill(id)?;
        }
        fails_in_time(mount.point())?;
        for id in two {
            lab.cluster.restart(id)?;
        }
        recovers(mount.point())
    });
}

#[test]
fn a_mount_can_be_unmounted_when_the_whole_cluster_is_gone() {
    with_cluster(4, |lab| {
        let mount = lab.mount_with("mnt", Mode::RoLookup, &["--timeout", DEADLINE])?;
        works(mount.point())?;
        for id in 0..4 {
            lab.cluster.kill(id)?;
        }
        fails_in_time(mount.point())?;
        let point = mount.point().to_owned();
        let start = Instant::now();
        mount.unmount()?;
        ensure!(start.elapsed() < CALL_PATIENCE, "it takes {:?}", start.elapsed());
        ensure!(!bftfs_dev::is_mounted(&point), "it is unmounted");
        Ok(())
    });
}

#[test]
fn killed_processes_go_while_two_replicas_are_stopped() {
    with_cluster(4, |lab| {
        // Nothing ends by its deadline before it is killed.
        let mount = lab.mount_with("mnt", Mode::Relatime, &["--timeout", "60s"])?;
        works(mount.point())?;
        let two = two_backups(lab)?;
        for id in two {
            lab.cluster.replica(id)?.signal(Signal::STOP)?;
        }
        let ended = go_when_killed(mount.point());
        for id in two {
            lab.cluster.replica(id)?.signal(Signal::CONT)?;
        }
        ended?;
        recovers(mount.point())
    });
}

/// Programs that wait for an answer are gone soon after they are killed.
fn go_when_killed(point: &Path) -> Result<()> {
    for (program, name) in [("cat", "before"), ("ls", ""), ("mkdir", "during")] {
        let mut child =
            Command::new(program).arg(point.join(name)).stdout(Stdio::null()).spawn()?;
        thread::sleep(Duration::from_millis(500));
        ensure!(child.try_wait()?.is_none(), "{program} ended without a quorum");
        child.kill()?;
        let gone = wait_until(KILL_PATIENCE, || !matches!(child.try_wait(), Ok(None)));
        ensure!(gone, "{program} was killed and does not go");
    }
    Ok(())
}

/// Two replicas of four that are not the primary.
fn two_backups(lab: &Lab) -> Result<[u32; 2]> {
    let first = backup(lab)?;
    Ok([first, (first + 1) % 4])
}

fn works(point: &Path) -> Result<()> {
    fs::write(point.join("before"), "before").context("the mount works")?;
    Ok(())
}

type Call = fn(&Path) -> io::Result<()>;

/// Reads and writes must fail, and neither at once nor late.
fn fails_in_time(point: &Path) -> Result<()> {
    let calls: [(&str, Call); 3] = [
        ("mkdir", |point| fs::create_dir(point.join("during"))),
        ("read", |point| fs::read(point.join("before")).map(|_| ())),
        ("readdir", |point| fs::read_dir(point)?.try_for_each(|entry| entry.map(|_| ()))),
    ];
    for (what, call) in calls {
        let (point, start) = (point.to_owned(), Instant::now());
        let caller = thread::spawn(move || call(&point));
        while !caller.is_finished() {
            ensure!(start.elapsed() < CALL_PATIENCE, "{what} does not end");
            thread::sleep(Duration::from_millis(10));
        }
        let Err(error) = caller.join().expect("no panic") else {
            bail!("{what} succeeds without a quorum")
        };
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        ensure!(
            matches!(errno, Some(Errno::TIMEDOUT | Errno::IO)),
            "{what} ends with {error}, not with ETIMEDOUT or EIO"
        );
    }
    Ok(())
}

fn recovers(point: &Path) -> Result<()> {
    let start = Instant::now();
    while let Err(error) = fs::write(point.join("after"), "after") {
        ensure!(start.elapsed() < RECOVERY_PATIENCE, "it does not recover: {error}");
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(fs::read(point.join("before"))? == b"before", "what was there is there");
    ensure!(fs::read(point.join("after"))? == b"after", "what is written is read");
    Ok(())
}
