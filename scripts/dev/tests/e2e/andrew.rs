//! The five phases of the Andrew benchmark.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use bftfs_dev::{Mode, find};

use crate::crashes::backup;
use crate::lab::{Lab, with_cluster};

const PHASES: [&str; 5] = ["mkdir", "copy", "stat", "read", "make"];

#[test]
fn the_andrew_benchmark_runs() {
    with_cluster(4, |lab| run_phases(lab, Mode::Strict, || Ok(())));
}

#[test]
fn the_andrew_benchmark_completes_although_a_backup_is_killed() {
    with_cluster(4, |lab| {
        run_phases(lab, Mode::RoLookup, || {
            thread::sleep(Duration::from_secs(2));
            lab.cluster.kill(backup(lab)?)
        })
    });
}

/// Runs the benchmark, and meanwhile something else.
fn run_phases(lab: &Lab, mode: Mode, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let mount = lab.mount("mnt", mode)?;
    let report = lab.directory("report")?.join("andrew.json");
    let mut bench = Command::new(find("bftfs-bench")?);
    bench.args(["andrew", "--runs", "1", "--target"]);
    bench.arg(format!("here={}", mount.point().display())).arg("--json").arg(&report);
    let mut bench = bench.spawn()?;
    let disturbed = meanwhile();
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
