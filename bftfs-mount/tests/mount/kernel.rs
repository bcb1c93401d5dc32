//! The file system as the kernel shows it: a real mount, over replicas played by a test double.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use bftfs_mount::mountpoint::{self, MountPointError};
use bftfs_mount::volume::Mode;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::double::Double;
use crate::mounted::{Mounted, has_fuse};
use crate::script;

pub(crate) const MODES: [Mode; 3] = [Mode::Strict, Mode::Relatime, Mode::RoLookup];

#[test]
fn every_call_does_what_it_does_on_a_local_file_system() {
    if !has_fuse() {
        return;
    }
    let local = tempfile::tempdir().expect("temporary directory");
    fs::set_permissions(local.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let expected = script::run(local.path());
    for (mode, option) in [
        (Mode::Strict, "rw"),
        (Mode::Relatime, "rw"),
        (Mode::RoLookup, "rw"),
        (Mode::Strict, "rdirplus"),
        (Mode::RoLookup, "rdirplus"),
        (Mode::RoLookup, "default_permissions"),
    ] {
        let mount = Mounted::with_option(&Double::default(), mode, option);
        let seen = script::run(mount.path());
        for (expected, seen) in expected.iter().zip(&seen) {
            assert_eq!(expected, seen, "left: local file system, right: {mode} mount, {option}");
        }
        assert_eq!(expected.len(), seen.len());
        eventually("everything is closed", || mount.volume.open_files() == 0);
    }
}

/// Runs a shell script as user 1001, group 1001, with group 2002 beside, in `directory`.
pub(crate) fn as_user(directory: &Path, script: &str) -> String {
    let output = Command::new("setpriv")
        .args(["--reuid=1001", "--regid=1001", "--groups=2002", "sh", "-c", script])
        .current_dir(directory)
        .env("LC_ALL", "C")
        .output()
        .expect("setpriv (util-linux) runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

const PERMISSIONS: &str = r#"
    try() { "$@" >/dev/null 2>&1; echo "$*: $?"; }
    try cat private; try cat group; try cat other; try sh -c 'echo x >> group'
    try sh -c 'echo x >> other'; try touch new; try touch open/new; try mkdir open/dir
    try ls locked; try cat locked/inside; try ls list; try cat list/inside
    try cat search/inside; try ls search; try chmod 777 other; try chown 0 open/new
    try chgrp 2002 open/new; try chgrp 3003 open/new; try chmod 4755 open/new
    try rm sticky/root; try touch sticky/mine; try rm sticky/mine; try mv other open/other
    try touch -d 2001-01-01 other; try touch group
    try test -r group; try test -w group; try test -x group; try test -r private
    try ./program; try ./script; try cat ./program; try cd locked
    try sh -c 'echo x >> suid'; try truncate -s 1 suid-cut; stat -c '%n %a' suid suid-cut
    try truncate -s 1 group; try truncate -s 1 other
    stat -c '%n %a %u %g' open/* group; umask 077; mkdir open/masked; stat -c '%a' open/masked
"#;

/// What only the kernel can check: with `default_permissions` it does.
const KERNEL_PERMISSIONS: &str = r#"
    ls -d locked/. >/dev/null 2>&1; echo "walk through dot: $?"
    ln other open/ln >/dev/null 2>&1; echo "protected hard links: $?"
"#;

fn lay_out(root: &Path) {
    let dir = |name: &str, mode| {
        fs::create_dir_all(root.join(name)).expect("mkdir");
        fs::write(root.join(name).join("inside"), b"inside").expect("write");
        chmod(&root.join(name), mode);
    };
    let file = |name: &str, mode, gid| {
        fs::write(root.join(name), b"#!/bin/sh\nexit 7\n").expect("write");
        std::os::unix::fs::chown(root.join(name), None, Some(gid)).expect("chgrp");
        chmod(&root.join(name), mode);
    };
    chmod(root, 0o755);
    file("private", 0o600, 0);
    file("group", 0o660, 2002);
    file("other", 0o604, 0);
    file("script", 0o755, 0);
    file("suid", 0o6777, 0);
    file("suid-cut", 0o6777, 0);
    fs::copy("/bin/true", root.join("program")).expect("copy");
    chmod(&root.join("program"), 0o711);
    for (name, mode) in [("open", 0o777), ("locked", 0o700), ("list", 0o744), ("search", 0o711)] {
        dir(name, mode);
    }
    dir("sticky", 0o1777);
    fs::write(root.join("sticky/root"), b"").expect("write");
}

#[test]
fn permissions_of_others_are_those_of_a_local_file_system() {
    if !has_fuse() {
        return;
    }
    let both = [PERMISSIONS, KERNEL_PERMISSIONS].concat();
    for (script, mode, option) in [
        (PERMISSIONS, Mode::Strict, "rw"),
        (PERMISSIONS, Mode::RoLookup, "rw"),
        (&both, Mode::RoLookup, "default_permissions"),
    ] {
        let local = tempfile::tempdir().expect("temporary directory");
        let mount = Mounted::with_option(&Double::default(), mode, option);
        lay_out(local.path());
        lay_out(mount.path());
        let (expected, seen) = (as_user(local.path(), script), as_user(mount.path(), script));
        assert!(expected.lines().count() > 30, "{expected}");
        for (expected, seen) in expected.lines().zip(seen.lines()) {
            assert_eq!(expected, seen, "left: local file system, right: {mode} mount, {option}");
        }
        assert_eq!(expected.lines().count(), seen.lines().count(), "{seen}");
    }
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn what_one_mount_wrote_another_never_misses() {
    if !has_fuse() {
        return;
    }
    for mode in MODES {
        let double = Double::default();
        let (here, there) = (Mounted::new(&double, mode), Mounted::new(&double, mode));
        fs::write(here.at("file"), [0; 8192]).expect("write");
        let writer = OpenOptions::new().write(true).open(here.at("file")).expect("open");
        let reader = File::open(there.at("file")).expect("open");
        for round in 1..=200_u8 {
            writer.write_at(&[round; 8192], 0).expect("write");
            let mut seen = [0; 8192];
            assert_eq!(reader.read_at(&mut seen, 0).expect("read"), 8192);
            assert!(seen.iter().all(|byte| *byte == round), "{mode}: stale read, round {round}");
            assert_eq!(fs::read(there.at("file")).expect("read")[8191], round);
            let name = format!("name-{round}");
            fs::write(here.at(&name), vec![0; round.into()]).expect("create");
            assert_eq!(fs::metadata(there.at(&name)).expect("stat").len(), u64::from(round));
            fs::rename(there.at(&name), there.at("moved")).expect("rename");
            assert!(!here.at(&name).exists(), "{mode}: stale name, round {round}");
            let listed = fs::read_dir(here.path()).expect("list").count();
            assert_eq!(listed, 2, "{mode}: stale listing, round {round}");
        }
    }
}

#[test]
fn a_program_that_another_mount_replaced_runs_as_replaced() {
    if !has_fuse() {
        return;
    }
    for mode in MODES {
        let double = Double::default();
        let (here, there) = (Mounted::new(&double, mode), Mounted::new(&double, mode));
        for round in 0..6 {
            let program = if round % 2 == 0 { "/bin/true" } else { "/bin/false" };
            // In place: the pages that ran before belong to the same inode.
            fs::write(here.at("program"), fs::read(program).expect("read")).expect("write");
            chmod(&here.at("program"), 0o755);
            let status = Command::new(there.at("program")).status().expect("runs");
            assert_eq!(status.success(), round % 2 == 0, "{mode}: an old program ran");
        }
    }
}

#[test]
fn no_time_is_too_early_or_too_late() {
    if !has_fuse() {
        return;
    }
    let mount = Mounted::new(&Double::default(), Mode::RoLookup);
    fs::write(mount.at("f"), b"x").expect("write");
    for tv_sec in [i64::MIN, i64::MIN + 1, i64::MAX] {
        let time = Timespec { tv_sec, tv_nsec: 999_999_999 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, mount.at("f"), &times, AtFlags::empty()).expect("utimens");
        let seen = fs::metadata(mount.at("f")).expect("the mount lives");
        assert_eq!(seen.mtime() < 0, tv_sec < 0);
    }
}

#[test]
fn appends_of_two_mounts_do_not_overwrite_each_other() {
    if !has_fuse() {
        return;
    }
    let double = Double::default();
    let mounts = [Mode::Strict, Mode::RoLookup].map(|mode| Mounted::new(&double, mode));
    fs::write(mounts[0].at("log"), b"").expect("create");
    thread::scope(|scope| {
        for (mount, letter) in mounts.iter().zip([b'a', b'b']) {
            scope.spawn(move || {
                let open = OpenOptions::new().append(true).open(mount.at("log"));
                let mut file = open.expect("open");
                for _ in 0..100 {
                    file.write_all(&[letter; 10]).expect("append");
                }
            });
        }
    });
    let log = fs::read(mounts[0].at("log")).expect("read");
    assert_eq!(log.len(), 2000);
    assert!(log.chunks(10).all(|line| line.iter().all(|byte| *byte == line[0])));
}

#[test]
fn atime_moves_as_the_mode_says() {
    if !has_fuse() {
        return;
    }
    for mode in MODES {
        let mount = Mounted::new(&Double::default(), mode);
        fs::create_dir(mount.at("d")).expect("mkdir");
        fs::write(mount.at("d/f"), b"x").expect("write");
        std::os::unix::fs::symlink("f", mount.at("d/l")).expect("symlink");
        let long_ago = Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
        let times = Timestamps { last_access: long_ago, last_modification: long_ago };
        for name in ["d/f", "d/l", "d"] {
            let path = mount.at(name);
            rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimens");
        }
        let atime = |name: &str| fs::symlink_metadata(mount.at(name)).expect("stat").atime();
        assert_eq!([atime("d/f"), atime("d/l"), atime("d")], [1_000_000; 3], "stat moves nothing");
        let read = || {
            fs::read(mount.at("d/f")).expect("read");
            fs::read_link(mount.at("d/l")).expect("readlink");
            assert_eq!(fs::read_dir(mount.at("d")).expect("open").count(), 2);
        };
        read();
        for name in ["d/f", "d/l", "d"] {
            assert_eq!(atime(name) > 1_000_000, mode != Mode::RoLookup, "{mode} {name}");
        }
        let precise = |name: &str| {
            let file = fs::symlink_metadata(mount.at(name)).expect("stat");
            (file.atime(), file.atime_nsec())
        };
        let before = ["d/f", "d/l", "d"].map(precise);
        read();
        for (name, before) in ["d/f", "d/l", "d"].into_iter().zip(before) {
            let moved = precise(name) != before;
            assert_eq!(moved, mode == Mode::Strict, "{mode} {name}: nothing changed in between");
        }
    }
}

#[test]
fn nothing_changes_through_a_read_only_mount() {
    if !has_fuse() {
        return;
    }
    for mode in MODES {
        nothing_changes_through_a_read_only_mount_in(mode);
    }
}

fn nothing_changes_through_a_read_only_mount_in(mode: Mode) {
    let double = Double::default();
    let writable = Mounted::new(&double, Mode::Strict);
    fs::write(writable.at("f"), b"x").expect("write");
    let mount = Mounted::with_option(&double, mode, "ro");
    let atime = || fs::metadata(mount.at("f")).map(|m| (m.atime(), m.atime_nsec())).expect("stat");
    let before = atime();
    assert_eq!(fs::read(mount.at("f")).expect("read"), b"x");
    assert_eq!(atime(), before);
    let refused = [
        fs::write(mount.at("f"), b"y").err(),
        fs::remove_file(mount.at("f")).err(),
        fs::create_dir(mount.at("d")).err(),
        fs::set_permissions(mount.at("f"), fs::Permissions::from_mode(0o600)).err(),
    ];
    for error in refused {
        assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::ReadOnlyFilesystem));
    }
}

const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    int fd = open("mapped", O_RDWR | O_CREAT, 0644);
    if (fd < 0 || ftruncate(fd, 8192)) return 1;
    char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return 2;
    strcpy(map + 5000, "through the mapping");
    char seen[32] = "";
    if (pread(fd, seen, sizeof seen - 1, 5000) < 0) return 3;
    if (strcmp(seen, "through the mapping")) return 4;
    if (msync(map, 8192, MS_SYNC) || munmap(map, 8192) || close(fd)) return 5;
    puts("compiled, linked, run and mapped");
    return 0;
}
"#;

#[test]
fn programs_are_compiled_run_and_map_files() {
    if !has_fuse() {
        return;
    }
    for mode in MODES {
        let mount = Mounted::new(&Double::default(), mode);
        fs::write(mount.at("p.c"), PROGRAM).expect("write");
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(mount.path()).output();
            let output = output.expect("runs");
            assert!(output.status.success(), "{mode} {program}: {output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        run("cc", &["-c", "p.c", "-o", "p.o"]);
        run("cc", &["p.o", "-o", "p"]);
        let program = mount.at("p");
        assert_eq!(run(program.to_str().expect("path"), &[]), "compiled, linked, run and mapped\n");
        let mapped = fs::read(mount.at("mapped")).expect("read");
        assert_eq!(&mapped[5000..5019], b"through the mapping");
        assert_eq!(mapped.len(), 8192);
    }
}

#[test]
fn unlinked_files_are_let_go_when_the_last_user_closes() {
    if !has_fuse() {
        return;
    }
    let mount = Mounted::new(&Double::default(), Mode::RoLookup);
    let used = || rustix::fs::statvfs(mount.path()).map(|s| s.f_files - s.f_ffree).expect("statfs");
    let before = used();
    let keep_open = File::create(mount.at("open")).expect("create");
    for i in 0..50 {
        fs::write(mount.at(&format!("f{i}")), b"contents").expect("write");
        fs::remove_file(mount.at(&format!("f{i}"))).expect("unlink");
    }
    let mut ghost = File::create_new(mount.at("ghost")).expect("create");
    fs::remove_file(mount.at("ghost")).expect("unlink");
    ghost.write_all(b"still there").expect("write");
    eventually("the ghost and the open file are left", || used() == before + 2);
    drop(ghost);
    fs::remove_file(mount.at("open")).expect("unlink");
    assert_eq!(keep_open.metadata().expect("stat").nlink(), 0);
    drop(keep_open);
    eventually("nothing is left", || used() == before);
}

pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn without_replicas_calls_fail_in_time_and_go_on_when_they_are_back() {
    if !has_fuse() {
        return;
    }
    let double = Double::default();
    let mount = Mounted::new(&double, Mode::RoLookup);
    fs::write(mount.at("f"), b"kept").expect("write");
    let mut file = File::open(mount.at("f")).expect("open");
    double.set_dead(true);
    let start = Instant::now();
    let errors = [
        fs::metadata(mount.at("f")).err(),
        file.read(&mut [0; 4]).err(),
        fs::write(mount.at("g"), b"x").err(),
        fs::read_dir(mount.path()).err(),
    ];
    assert!(start.elapsed() < Duration::from_secs(5));
    for error in errors {
        assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::TimedOut));
    }
    double.set_dead(false);
    assert_eq!(fs::read(mount.at("f")).expect("read"), b"kept");
}

#[test]
fn a_mount_is_no_mount_point_and_outlives_its_users_lazily() {
    if !has_fuse() {
        return;
    }
    let mount = Mounted::new(&Double::default(), Mode::RoLookup);
    let taken = mountpoint::check(mount.path()).expect_err("taken");
    assert!(matches!(taken, MountPointError::AlreadyMounted(_)), "{taken}");
    fs::write(mount.at("f"), b"in use").expect("write");
    let mut file = File::open(mount.at("f")).expect("open");
    let path = mount.path().to_owned();
    let dropped = thread::spawn(move || drop(mount));
    eventually("it is out of the tree", || !path.join("f").exists());
    let mut text = String::new();
    file.read_to_string(&mut text).expect("the open file still works");
    assert_eq!(text, "in use");
    drop(file);
    dropped.join().expect("the session ends after the last close");
}
