//! The benchmarks that set up their own replicas, with numbers that mean nothing: to see that every
//! part works, and leaves nothing behind.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::find;
use serde_json::Value;

#[test]
fn a_wiped_replica_is_measured_until_it_votes_again() {
    let report = run(&["faults", "--only=wiped", "--state-bytes=4MiB"]).expect("it works");
    let wiped = &report["wiped"];
    assert!(wiped["state_bytes"].as_u64() >= Some(4 << 20), "{wiped}");
    assert!(wiped["state_bytes_received"]["median"].as_f64() >= Some(4e6), "{wiped}");
    assert!(wiped["state_seconds"]["median"].as_f64() > Some(0.0), "{wiped}");
    assert!(wiped["voting_seconds"]["median"].as_f64() > Some(0.0), "{wiped}");
}

#[test]
fn every_figure_of_a_store_is_measured() {
    let report = run(&[
        "store",
        "--rounds=1",
        "--files=100,200",
        "--sample=20",
        "--starts=1",
        "--operations=600",
        "--changed=0,20",
        "--large-bytes=2MiB",
        "--small-files=20",
        "--amplified-bytes=2MiB",
        "--overwrites=20",
        "--overwritten-bytes=1MiB",
        "--contents-bytes=10MiB",
    ]);
    let report = report.expect("it works");
    for size in report["files"].as_array().expect("sizes") {
        for op in ["create", "stat", "read", "delete"] {
            assert!(size["rates"][op]["median"].as_f64() > Some(0.0), "{op}: {size}");
        }
        assert!(size["memory"]["resident"].as_u64() > Some(1 << 20), "{size}");
    }
    let checkpoint = &report["checkpoint"];
    for (class, at_least) in [("with", 8), ("after", 128), ("without", 1000)] {
        assert!(checkpoint[class]["count"].as_u64() >= Some(at_least), "{class}: {checkpoint}");
        assert!(checkpoint[class]["max_ms"].as_f64() > Some(0.0), "{class}: {checkpoint}");
    }
    assert_eq!(checkpoint["bytes"].as_array().map(Vec::len), Some(2));
    assert!(report["start"]["killed_seconds"]["median"].as_f64() > Some(0.0));
    for (op, place) in
        [("write", "local"), ("write", "mount"), ("read", "local"), ("read", "mount")]
    {
        assert!(report["large"]["rates"][op][place]["median"].as_f64() > Some(0.0), "{op} {place}");
    }
    let cases = report["amplification"].as_array().expect("cases");
    assert_eq!(cases.len(), 4);
    for case in &cases[1..] {
        let user = case["user_bytes"].as_f64();
        assert!(case["written"]["replica"]["median"].as_f64() > user, "{case}");
    }
    assert_eq!(report["memory"]["points"].as_array().map(Vec::len), Some(11));
    assert_eq!(report["memory"]["stopped"], Value::Null);
}

/// Runs a benchmark; its report.
fn run(arguments: &[&str]) -> Result<Value> {
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let json = dir.path().join("report.json");
    let mut bench = Command::new(find("bftfs-bench")?);
    bench.args(arguments).arg("--dir").arg(dir.path()).arg("--json").arg(&json);
    let output = bench.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the benchmark ends with {}:\n{told}", output.status);
    let report = fs::read(&json).context("there is no report")?;
    fs::remove_file(&json)?;
    let left: Vec<_> = fs::read_dir(dir.path())?.collect::<Result<_, _>>()?;
    ensure!(left.is_empty(), "something was left behind: {left:?}");
    Ok(serde_json::from_slice(&report)?)
}
