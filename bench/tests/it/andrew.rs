//! The Andrew benchmark as a person runs it: over plain directories, well and badly behaved.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Two empty target directories, and what a run needs beside them.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["one", "two"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bftfs-bench"));
        command
            .arg("andrew")
            .arg(format!("--target=nr={}", self.path("one").display()))
            .arg(format!("--target=other={}", self.path("two").display()))
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--json")
            .arg(self.path("report.json"))
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }

    fn report(&self) -> Value {
        let text = fs::read(self.path("report.json")).expect("a report was written");
        serde_json::from_slice(&text).expect("it is JSON")
    }

    fn assert_clean(&self) {
        for name in ["one", "two"] {
            let left = fs::read_dir(self.path(name)).expect("a listing").count();
            assert_eq!(left, 0, "something was left in target {name}");
        }
        let strays: Vec<_> = fs::read_dir(self.dir.path())
            .expect("a listing")
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|name| name.to_string_lossy().starts_with("bftfs-bench-"))
            .collect();
        assert!(strays.is_empty(), "work directories were left: {strays:?}");
    }
}

/// Writes a compiler that behaves like cc but for what `script` does after it.
fn evil_compiler(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("evil-cc");
    fs::write(&path, format!("#!/bin/sh\ncc \"$@\" || exit 1\n{script}\n")).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

#[test]
fn two_directories_give_all_keys_and_equal_trees() {
    let bench = Bench::new();
    let html = bench.path("report.html");
    let output = bench.run(&["--runs=1", "--copies=2", &format!("--html={}", html.display())]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bench.assert_clean();

    let report = bench.report();
    for column in ["nr", "other"] {
        let column = &report["columns"][column];
        for row in ["mkdir", "copy", "stat", "read", "make", "total"] {
            let seconds = column[row].as_f64().expect("a median");
            assert!(seconds > 0.0, "{row} took {seconds} s");
            assert_eq!(column["spread"][row]["min"].as_f64(), Some(seconds));
            assert_eq!(column["samples"][row].as_array().map(Vec::len), Some(1));
        }
        assert!(column["cpu"].is_null(), "no process is known for a plain directory");
        assert_eq!(column["baseline"], "nr");
    }
    assert_eq!(report["order"], serde_json::json!(["nr", "other"]));
    assert_eq!(report["settings"]["copies"], 2);
    assert_eq!(report["settings"]["runs"], 1);
    assert_eq!(report["settings"]["caches"], "warm");
    for key in ["kernel", "cpus", "compiler", "pinning", "tree", "bftfs"] {
        assert!(!report["settings"][key].is_null(), "the setting {key} is missing");
    }
    // Sources, as many objects as C files, and the program.
    let files = report["result"]["files"].as_u64().expect("a number");
    assert!(files > 90, "{files} files were left");

    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(table.contains("(100 %)"), "no share of the baseline in {table}");
    let page = fs::read_to_string(html).expect("a page was written");
    assert!(page.contains("<svg") && page.contains("(100 %)") && !page.contains("src="));
}

#[test]
fn cpu_time_is_measured_of_the_processes_that_were_named() {
    let bench = Bench::new();
    let own = format!("--pids=nr={}", std::process::id());
    let output = bench.run(&["--runs=1", &own]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = bench.report();
    assert!(report["columns"]["nr"]["cpu"]["total"].is_f64());
    assert!(report["columns"]["other"]["cpu"].is_null());
}

#[test]
fn a_target_that_changes_a_source_is_reported() {
    let bench = Bench::new();
    let compiler = evil_compiler(
        bench.dir.path(),
        "case \"$PWD\" in */two/*) echo ' ' >> core/gc/lgc.c;; esac",
    );
    let output = bench.command(&["--runs=1"]).env("CC", compiler).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(message.contains("target other"), "{message}");
    assert!(message.contains("lgc.c is no longer the file that was copied"), "{message}");
    assert!(!bench.path("report.json").exists(), "a broken target must not give times");
    bench.assert_clean();
}

#[test]
fn targets_that_end_with_different_trees_are_reported() {
    let bench = Bench::new();
    let compiler = evil_compiler(
        bench.dir.path(),
        "case \"$PWD\" in */two/*) echo ' ' >> core/gc/lgc.o;; esac",
    );
    let output = bench.command(&["--runs=1"]).env("CC", compiler).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(message.contains("targets nr and other ended with different trees"), "{message}");
    bench.assert_clean();
}

#[test]
fn a_tree_with_a_makefile_is_made() {
    let bench = Bench::new();
    let tree = bench.path("tree");
    fs::create_dir(&tree).expect("mkdir");
    fs::write(tree.join("Makefile"), "hello: hello.c\n\tcc -o hello hello.c\n").expect("write");
    fs::write(tree.join("hello.c"), "int main(void) { return 0; }\n").expect("write");
    let argument = format!("--tree={}", tree.display());
    let output = bench.run(&["--runs=2", &argument]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bench.report()["result"]["files"], 3);
    bench.assert_clean();

    fs::write(tree.join("Makefile"), "all:\n\tfalse\n").expect("write");
    let output = bench.run(&["--runs=1", &argument]);
    assert!(!output.status.success());
    bench.assert_clean();
}

#[test]
fn a_peer_that_cannot_be_installed_is_named_and_the_rest_is_measured() {
    let bench = Bench::new();
    let programs = bench.path("bin");
    fs::create_dir(&programs).expect("mkdir");
    for name in ["dpkg-query", "apt-get"] {
        let path = programs.join(name);
        fs::write(&path, "#!/bin/sh\necho none of this here >&2\nexit 1\n").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let tree = bench.path("tree");
    fs::create_dir(&tree).expect("mkdir");
    fs::write(tree.join("hello.c"), "int main(void) { return 0; }\n").expect("write");
    let path = std::env::var("PATH").expect("a search path");
    let html = bench.path("report.html");
    let output = bench
        .command(&["--runs=1", "--copies=1,2", "--peers=sshfs,ext4"])
        .arg(format!("--html={}", html.display()))
        .arg(format!("--tree={}", tree.display()))
        .env("PATH", format!("{}:{path}", programs.display()))
        .output()
        .expect("the program runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    bench.assert_clean();
    let reports = bench.report();
    assert_eq!(reports.as_array().map(Vec::len), Some(2), "one report for each of --copies");
    for (report, copies) in [(&reports[0], 1), (&reports[1], 2)] {
        assert_eq!(report["settings"]["copies"], copies);
        let why = report["missing"]["sshfs"].as_str().expect("a reason");
        assert!(why.contains("cannot install sshfs") && why.contains("none of this here"), "{why}");
        assert_eq!(report["order"], serde_json::json!(["ext4", "nr", "other"]));
        assert_eq!(report["ratios"]["ext4"]["ext4"], 100.0);
        assert_eq!(report["promises"]["ext4"]["synced"], "on the disk");
    }
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(table.matches("not measured: sshfs: cannot install sshfs").count(), 2, "{table}");
    assert!(table.contains("Against BFS-nr") && table.contains("Against everything"), "{table}");
    assert!(fs::read_to_string(html).expect("a page").contains("not measured: sshfs"));
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let bench = Bench::new();
    let mut child = bench.command(&["--runs=1000"]).spawn().expect("the program runs");
    let busy = || fs::read_dir(bench.path("one")).is_ok_and(|mut entries| entries.next().is_some());
    while !busy() {
        assert!(child.try_wait().expect("a status").is_none(), "it ended too early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    assert!(!child.wait().expect("a status").success());
    assert!(!bench.path("report.json").exists());
    bench.assert_clean();
}

#[test]
fn wrong_arguments_are_named() {
    let bench = Bench::new();
    let refused = |arguments: &[&str], wanted: &str| {
        let output = bench.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?} was accepted");
        assert!(message.contains(wanted), "{arguments:?}: {message}");
    };
    refused(&["--target=nr=."], "two targets are called nr");
    refused(&["--target=x=/nowhere/at/all"], "/nowhere/at/all");
    refused(&["--pids=zz=1"], "there is no such --target");
    refused(&["--pids=nr=x"], "no process id");
    refused(&["--columns=ext5"], "ext5");
    refused(&["--peers=ntfs"], "there is ext4, passthrough, nfs-sync");
    refused(&["--replicas=5"], "expected 4, 7, 10");
    refused(&["--tree=/nowhere/at/all"], "not a directory");
    refused(&["--runs=0"], "--runs");
    bench.assert_clean();
}
