//! Disks that fill up, rot and lose files under a running cluster: nobody who works in it notices,
//! and in the end all replicas hold the same, undamaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::{Mode, find};
use serde_json::Value;

use crate::lab::{Lab, with_cluster};
use crate::workload::{Load, Numbers};

/// Time that a replica has for what it must do by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the small disk: two segments of the journal and some packs.
const SMALL_DISK: &str = "size=192m";

#[test]
fn damage_of_every_kind_is_repaired_under_load() {
    with_cluster(4, |lab| {
        let mount = lab.mount("mnt", Mode::Strict)?;
        let small = SmallDisk::under(lab, 3)?;
        let load = Load::start(mount.point());
        for number in 0..24_u8 {
            fs::write(mount.point().join(format!("kept-{number}")), vec![number; 200_000])?;
        }
        let stored = |lab: &Lab| (0..4).all(|id| packs(lab, id).iter().any(|p| bytes(p) > 400_000));
        wait_for("all have stored something", || stored(lab))?;

        bits_flip_in_a_running_store(lab)?;
        files_of_a_store_are_lost(lab)?;
        a_journal_is_cut(lab)?;
        small.fills(lab)?;

        let ledger = load.stop();
        assert_eq!(ledger.failures, [""; 0], "the workload notices nothing");
        ledger.verify(mount.point())?;
        for number in 0..24_u8 {
            let read = fs::read(mount.point().join(format!("kept-{number}")))?;
            ensure!(read == vec![number; 200_000], "kept-{number} differs");
        }
        drop(mount);
        all_are_whole_and_equal(lab)
    });
}

/// A scrub of the running replica finds what is damaged, and it comes back from the others.
fn bits_flip_in_a_running_store(lab: &Lab) -> Result<()> {
    let mut numbers = Numbers::new(7);
    for pack in packs(lab, 0) {
        for _ in 0..20 {
            flip(&pack, numbers.below(bytes(&pack)))?;
        }
    }
    let socket = data(lab, 0).join("status.sock");
    let scrub = || tool(&["scrub", "--socket", &socket.display().to_string()]);
    let first = scrub()?;
    ensure!(first.status.code() == Some(1), "the damage is found: {}", said(&first));
    wait_for("a scrub finds nothing more", || scrub().is_ok_and(|output| output.status.success()))
}

/// A pack, the list of another and a superblock, while the replica is down.
fn files_of_a_store_are_lost(lab: &Lab) -> Result<()> {
    lab.cluster.kill(1)?;
    let packs = packs(lab, 1);
    fs::remove_file(packs.first().context("it has a pack")?)?;
    let superblock = data(lab, 1).join("store").join("superblock.0");
    flip(&superblock, bytes(&superblock) / 2)?;
    lab.cluster.restart(1)?;
    level(lab, 1)
}

/// What was promised is lost: the replica refuses to go on, and its operator has it come back as
/// one that knows nothing. The same for its identity.
fn a_journal_is_cut(lab: &Lab) -> Result<()> {
    lab.cluster.kill(2)?;
    let identity = data(lab, 2).join("identity");
    let at = bytes(&identity) / 2;
    flip(&identity, at)?;
    let refused = lab.cluster.restart(2).map(drop).unwrap_err();
    ensure!(format!("{refused:#}").contains("is damaged"), "{refused:#}");
    flip(&identity, at)?;

    // The first one: it cannot be taken for a write that a crash cut short.
    let mut segments = files(&data(lab, 2).join("journal"));
    segments.sort();
    let segment = segments.first().context("it has a journal")?;
    OpenOptions::new().write(true).open(segment)?.set_len(5000)?;
    let refused = lab.cluster.restart(2).map(drop).unwrap_err();
    ensure!(format!("{refused:#}").contains("is damaged"), "{refused:#}");
    fs::rename(data(lab, 2), lab.cluster.replica_dir(2).join("lost"))?;
    lab.cluster.recover(2, |_| {})?;
    level(lab, 2)
}

/// A disk of little room under one replica, until it is dropped.
struct SmallDisk {
    data: PathBuf,
}

impl SmallDisk {
    fn under(lab: &Lab, id: u32) -> Result<Self> {
        lab.cluster.kill(id)?;
        let (data, aside) = (data(lab, id), lab.cluster.replica_dir(id).join("aside"));
        fs::rename(&data, &aside)?;
        fs::create_dir(&data)?;
        run("mount", &["-t", "tmpfs", "-o", SMALL_DISK, "bftfs-e2e", &data.display().to_string()])?;
        let disk = Self { data: data.clone() };
        run("cp", &["-a", &format!("{}/.", aside.display()), &data.display().to_string()])?;
        lab.cluster.restart(id)?;
        Ok(disk)
    }

    /// The replica ends with a clear message; with room again it goes on.
    fn fills(&self, lab: &Lab) -> Result<()> {
        let filler = self.data.join("filler");
        // As much as goes in.
        let _ = run("dd", &["if=/dev/zero", &format!("of={}", filler.display()), "bs=1M"]);
        wait_for("it ends", || lab.cluster.status_of(3).pid.is_none())?;
        let log = fs::read_to_string(lab.cluster.replica_dir(3).join("log"))?;
        ensure!(log.contains("Make room"), "it says what to do: {log:.2000}");
        fs::remove_file(filler)?;
        lab.cluster.restart(3)?;
        level(lab, 3)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["--lazy", &self.data.display().to_string()]);
    }
}

fn all_are_whole_and_equal(lab: &Lab) -> Result<()> {
    let stable = || -> Vec<Option<u64>> {
        let status = lab.cluster.status();
        status.into_iter().map(|r| r.counters.map(|c| c.last_stable)).collect()
    };
    wait_for("all are at one checkpoint", || {
        let stable = stable();
        stable.iter().all(|seq| seq.is_some() && *seq == stable[0])
    })?;
    // What is stable is stored at leisure.
    thread::sleep(Duration::from_secs(2));
    for id in 0..4 {
        lab.cluster.replica(id)?.stop()?;
    }
    let mut states = Vec::new();
    for id in 0..4 {
        let verified = on_data(lab, "verify", id, &[])?;
        ensure!(verified.status.success(), "replica {id}: {}", said(&verified));
        let inspected = on_data(lab, "inspect", id, &["--json"])?;
        let found: Value = serde_json::from_slice(&inspected.stdout)?;
        states.push((found["checkpoint"]["seq"].clone(), found["checkpoint"]["state"].clone()));
    }
    ensure!(states[0].1.is_string(), "a state has a digest: {states:?}");
    ensure!(states.iter().all(|state| *state == states[0]), "one state: {states:?}");
    Ok(())
}

/// Waits until the replica is where the others were when this was called.
fn level(lab: &Lab, id: u32) -> Result<()> {
    let goal = lab.executed().into_iter().flatten().max().context("replicas answer")?;
    wait_for(&format!("replica {id} is at {goal}"), || {
        lab.executed()[id as usize].is_some_and(|executed| executed >= goal)
    })
}

fn wait_for(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn data(lab: &Lab, id: u32) -> PathBuf {
    lab.cluster.replica_dir(id).join("data")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The packs of a replica, the oldest first.
fn packs(lab: &Lab, id: u32) -> Vec<PathBuf> {
    let mut files = files(&data(lab, id).join("store"));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pack"));
    files.sort();
    files
}

fn bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    Ok(())
}

/// Runs a verb of `bftfs-node` on what a stopped replica has.
fn on_data(lab: &Lab, verb: &str, id: u32, more: &[&str]) -> Result<Output> {
    let (cluster, data) = (lab.cluster.cluster_file(), data(lab, id));
    let (cluster, data, id) =
        (cluster.display().to_string(), data.display().to_string(), id.to_string());
    let arguments = [verb, "--cluster", &cluster, "--id", &id, "--data", &data];
    tool(&[&arguments, more].concat())
}

fn tool(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(find("bftfs-node")?).args(arguments).output()?)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", said(&output));
    Ok(())
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}
