//! The five phases of the Andrew benchmark.

use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use bftfs_dev::{Mode, find};

use crate::crashes::backup;
use crate::failover::catches_up;
use crate::lab::{Lab, with_cluster};
use crate::workload::Numbers;

const PHASES: [&str; 5] = ["mkdir", "copy", "stat", "read", "make"];

#[test]
fn the_andrew_benchmark_runs() {
    with_cluster(4, |lab| run_phases(lab, Mode::Strict, |_| Ok(())));
}

#[test]
fn the_andrew_benchmark_completes_although_a_backup_is_killed() {
    with_cluster(4, |lab| {
        run_phases(lab, Mode::RoLookup, |_| {
            thread::sleep(Duration::from_secs(2));
            lab.cluster.kill(backup(lab)?)
        })
    });
}

#[test]
fn the_andrew_benchmark_completes_although_any_node_is_killed_at_any_moment() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    println!("moments and victims are those of seed {seed}");
    let mut numbers = Numbers::new(seed.into());
    with_cluster(4, |lab| {
        run_phases(lab, Mode::Strict, |bench| {
            while bench.try_wait()?.is_none() {
                thread::sleep(Duration::from_millis(numbers.below(2000)));
                let victim = u32::try_from(numbers.below(4))?;
                lab.cluster.kill(victim)?;
                thread::sleep(Duration::from_millis(numbers.below(2000)));
                lab.cluster.restart(victim)?;
                // One at a time: until it has caught up, it is one of the f.
                catches_up(lab, victim)?;
            }
            Ok(())
        })
    });
}

/// Runs the benchmark, and meanwhile something else.
fn run_phases(
    lab: &Lab,
    mode: Mode,
    meanwhile: impl FnOnce(&mut Child) -> Result<()>,
) -> Result<()> {
    let mount = lab.mount("mnt", mode)?;
    let report = lab.directory("report")?.join("andrew.json");
    let mut bench = Command::new(find("bftfs-bench")?);
    bench.args(["andrew", "--runs", "1", "--target"]);
    bench.arg(format!("here={}", mount.point().display())).arg("--json").arg(&report);
    let mut bench = bench.spawn()?;
    let disturbed = meanwhile(&mut bench);
    let status = bench.wait()?;
    disturbed?;
    ensure!(status.success(), "the benchmark ends with {status}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report)?)?;
    for phase in PHASES {
        let seconds = report["columns"]["here"][phase].as_f64();
        ensure!(seconds.is_some_and(|s| s > 0.0), "{phase} took {seconds:?} seconds: {report}");
    }
    ensure!(fs::read_dir(mount.point())?.next().is_none(), "the benchmark cleans up");
    Ok(())
}
