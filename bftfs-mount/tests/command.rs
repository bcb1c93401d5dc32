//! The command line of the real program: what it refuses, in which words, with which status.

use std::path::Path;
use std::process::{Command, Output};

fn mount(arguments: &[&str], directory: &Path) -> Output {
    let fixed = ["--cluster", "cluster.toml", "--cert", "a.crt", "--key", "a.key"];
    Command::new(env!("CARGO_BIN_EXE_bftfs-mount"))
        .args(fixed)
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("the program runs")
}

#[track_caller]
fn refused(arguments: &[&str], directory: &Path, status: i32, words: &str) {
    for daemon in [None, Some("--daemon")] {
        let all: Vec<&str> = arguments.iter().copied().chain(daemon).collect();
        let output = mount(&all, directory);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{all:?}: {said}");
        assert!(said.contains(words), "{all:?}: {said}");
    }
}

#[test]
fn wrong_usage_is_status_1() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let here = directory.path();
    refused(&["--mode", "strict"], here, 1, "MOUNTPOINT");
    refused(&["--mode", "fast", "."], here, 1, "strict, relatime, ro-lookup");
    refused(&["--mode", "strict", "-o", "ro,direct_io", "."], here, 1, "-o direct_io: unknown");
    refused(&["--mode", "strict", "-o", "noatime", "."], here, 1, "contradict");
    refused(&["-o", "relatime,noatime", "."], here, 1, "-o relatime and -o noatime contradict");
    refused(&["--mode", "strict", "--timeout", "0s", "."], here, 1, "between");
}

#[test]
fn a_mount_point_that_will_not_do_is_status_32() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let here = directory.path();
    std::fs::write(here.join("file"), b"x").expect("write");
    refused(&["--mode", "strict", "none"], here, 32, "does not exist");
    refused(&["--mode", "strict", "file"], here, 32, "is not a directory");
    refused(&["--mode", "strict", "."], here, 32, "is not empty");
    refused(&["--mode", "strict", "/proc"], here, 32, "mounted on /proc already");
}

#[test]
fn a_missing_cluster_file_is_status_2_and_named() {
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::create_dir(directory.path().join("mnt")).expect("mkdir");
    refused(&["--mode", "strict", "mnt"], directory.path(), 2, "cluster.toml");
}
