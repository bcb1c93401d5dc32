//! The micro benchmark as a person runs it, over a plain directory and the passthrough.

use std::fs;
use std::process::Command;

use serde_json::Value;

#[test]
fn every_operation_is_measured_on_every_target() {
    if !crate::has_fuse() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_bftfs-bench"))
        .args(["micro", "--quick", "--columns=ext4,passthrough", "--in-flight=1,4", "--dir"])
        .arg(dir.path())
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the program runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");

    let report: Value = serde_json::from_slice(&fs::read(&json).expect("a report")).expect("JSON");
    for target in ["ext4", "passthrough"] {
        let ops = report["targets"][target].as_object().expect("operations");
        assert_eq!(ops.len(), 11, "{:?}", ops.keys());
        for (op, cells) in ops {
            for (in_flight, cell) in cells.as_object().expect("cells") {
                let of = format!("{target} {op} {in_flight}");
                assert!(cell["p50_us"].as_f64() > Some(0.0), "{of}");
                assert!(cell["p99_us"].as_f64() >= cell["p50_us"].as_f64(), "{of}");
                assert!(cell["ops_per_s"].as_f64() > Some(0.0), "{of}");
                assert_eq!(cell["cpu_us_per_op"].is_f64(), target == "passthrough", "{of}");
            }
            let cases = if op.starts_with("sequential") { 1 } else { 2 };
            assert_eq!(cells.as_object().map(serde_json::Map::len), Some(cases), "{op}");
        }
    }
    assert_eq!(report["settings"]["quick"], true);
    let left: Vec<_> = fs::read_dir(dir.path())
        .expect("a listing")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["report.json"], "something was left behind");
}
