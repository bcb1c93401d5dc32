//! Parts of files through the kernel: holes, allocation, copies, mappings, direct and synchronous
//! I/O, and the largest offsets.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use bftfs_mount::stats::Kind;
use bftfs_mount::volume::Mode;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, ftruncate, seek};
use rustix::io::Errno;

use crate::double::Double;
use crate::mounted::{Mounted, has_fuse};

const BLOCK: u64 = 32 << 10;
const MOST: u64 = i64::MAX as u64;
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

fn create(path: &Path) -> File {
    let open = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    open.expect("create")
}

#[test]
fn data_and_holes_are_found() {
    if !has_fuse() {
        return;
    }
    let mount = Mounted::new(&Double::default(), Mode::Relatime);
    let file = create(&mount.at("f"));
    file.write_all_at(b"data", 3 * BLOCK).expect("write");
    file.set_len(10 * BLOCK).expect("grow");
    for (from, found) in [
        (SeekFrom::Data(0), Ok(3 * BLOCK)),
        (SeekFrom::Hole(0), Ok(0)),
        (SeekFrom::Hole(3 * BLOCK), Ok(3 * BLOCK + 4)),
        (SeekFrom::Data(3 * BLOCK + 4), Err(Errno::NXIO)),
        (SeekFrom::Hole(10 * BLOCK), Err(Errno::NXIO)),
        (SeekFrom::Start(7), Ok(7)),
        (SeekFrom::End(1), Ok(10 * BLOCK + 1)),
    ] {
        assert_eq!(seek(&file, from), found, "{from:?}");
    }
    // More than one operation looks through, from the middle of a block.
    let dense = create(&mount.at("dense"));
    for mebibyte in 0..66_u64 {
        dense.write_all_at(&[1; 1 << 20], mebibyte << 20).expect("write");
    }
    assert_eq!(seek(&dense, SeekFrom::Hole(5)), Ok(66 << 20));
}

#[test]
fn a_big_hole_is_punched_in_steps() {
    if !has_fuse() {
        return;
    }
    let double = Double::default();
    let mount = Mounted::new(&double, Mode::Relatime);
    let file = create(&mount.at("f"));
    for block in 0..600 {
        file.write_all_at(b"x", block * BLOCK).expect("write");
    }
    let (before, _) = double.counts();
    fallocate(&file, PUNCH, 0, 599 * BLOCK).expect("punched");
    assert_eq!(double.counts().0 - before, 3, "operations");
    assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(599 * BLOCK));
    let seen = file.metadata().expect("stat");
    assert_eq!((seen.len(), seen.blocks()), (599 * BLOCK + 1, 1));
}

#[test]
fn what_fuse_does_not_carry_is_refused_as_not_supported() {
    if !has_fuse() {
        return;
    }
    let mount = Mounted::new(&Double::default(), Mode::Relatime);
    let file = create(&mount.at("f"));
    file.write_all_at(&[1; 1 << 17], 0).expect("write");
    let ranges = [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
    ];
    for mode in ranges {
        assert_eq!(fallocate(&file, mode, 0, BLOCK), Err(Errno::OPNOTSUPP), "{mode:?}");
    }
    assert_eq!(mount.stats.count(Kind::Fallocate), 0, "the kernel refuses without asking");
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let nameless = rustix::fs::open(mount.path(), flags, 0o600.into()).map(drop);
    assert_eq!(nameless, Err(Errno::OPNOTSUPP));
    assert_eq!(fs::read_dir(mount.path()).expect("list").count(), 1, "nothing was made");
}

#[test]
fn copies_are_made_by_the_replicas() {
    if !has_fuse() {
        return;
    }
    let double = Double::default();
    let mount = Mounted::new(&double, Mode::Relatime);
    let contents: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(mount.at("from"), &contents).expect("write");
    let (from, to) = (File::open(mount.at("from")).expect("open"), create(&mount.at("to")));
    let before = double.counts();
    let mut copied = 0;
    loop {
        match copy_file_range(&from, None, &to, None, 10_000_000).expect("copy") {
            0 => break,
            count => copied += count,
        }
    }
    let after = double.counts();
    assert_eq!(copied, contents.len());
    assert!(fs::read(mount.at("to")).expect("read") == contents);
    // The kernel asks once for the capability of what it changes.
    let asked = (after.0 - before.0, after.1 - before.1);
    assert!(asked.0 <= 4 && asked.1 <= 1, "{asked:?}");
    fs::copy(mount.at("from"), mount.at("again")).expect("as cp does");
    assert!(fs::read(mount.at("again")).expect("read") == contents);
    let overlap = copy_file_range(&to, Some(&mut 0), &to, Some(&mut 5), 10);
    assert_eq!(overlap, Err(Errno::INVAL));
}

#[test]
fn direct_and_synchronous_files_work() {
    if !has_fuse() {
        return;
    }
    for mode in [Mode::Strict, Mode::Relatime, Mode::RoLookup] {
        let mount = Mounted::new(&Double::default(), mode);
        for flags in [OFlags::DIRECT, OFlags::SYNC, OFlags::DSYNC, OFlags::DIRECT | OFlags::SYNC] {
            let name = format!("{flags:?}");
            let mut open = OpenOptions::new();
            open.read(true).write(true).create(true).truncate(false);
            let open = open.custom_flags(flags.bits().cast_signed()).open(mount.at(&name));
            let file = open.expect("open");
            // Neither offsets nor lengths nor addresses need be aligned.
            let data: Vec<u8> = (0..100_001_u32).map(|i| (i % 253) as u8).collect();
            file.write_all_at(&data[1..], 4097).expect("write");
            let mut seen = vec![0; 100_001];
            file.read_exact_at(&mut seen[1..], 4097).expect("read");
            assert!(seen[1..] == data[1..], "{mode} {name}");
            file.sync_data().expect("sync");
            assert_eq!(file.metadata().expect("stat").len(), 104_097, "{mode} {name}");
        }
    }
}

#[test]
fn files_are_as_large_as_offsets_go() {
    if !has_fuse() {
        return;
    }
    let mount = Mounted::new(&Double::default(), Mode::Relatime);
    let file = create(&mount.at("f"));
    file.set_len(MOST).expect("the largest size");
    assert_eq!(file.metadata().expect("stat").len(), MOST);
    for offset in [5 << 40, MOST - 5] {
        file.write_all_at(b"far", offset).expect("write");
        let mut seen = [9; 5];
        file.read_exact_at(&mut seen, offset - 2).expect("read");
        assert_eq!(&seen, b"\0\0far");
    }
    assert_eq!(seek(&file, SeekFrom::Data(6 << 40)), Ok((MOST - 5) / BLOCK * BLOCK));
    assert_eq!(file.metadata().expect("stat").blocks(), 64, "holes take nothing");
    let append = OpenOptions::new().append(true).open(mount.at("f")).expect("open");
    assert_eq!(rustix::io::write(&append, b"x"), Err(Errno::FBIG));
    assert_eq!(rustix::io::pwrite(&file, b"x", MOST), Err(Errno::INVAL), "its end is no offset");
    assert_eq!(fallocate(&file, FallocateFlags::empty(), MOST, 1), Err(Errno::FBIG));
    assert_eq!(ftruncate(&file, MOST + 1), Err(Errno::INVAL), "a negative number");
    fallocate(&file, PUNCH, 0, MOST).expect("punched");
    assert_eq!(seek(&file, SeekFrom::Data(0)), Err(Errno::NXIO));
}

/// Maps `file`, of 3 pages, in both ways; says which promise is broken by its exit status.
const MAPPINGS: &str = r#"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static char seen[16];
static int reads(int fd, off_t at, const char *what) {
    return pread(fd, seen, strlen(what), at) == (ssize_t) strlen(what) &&
           !memcmp(seen, what, strlen(what));
}
int main(void) {
    int fd = open("file", O_RDWR), other = open("file", O_RDONLY);
    if (fd < 0 || other < 0) return 1;
    char *shared = mmap(0, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *view = mmap(0, 12288, PROT_READ, MAP_SHARED, other, 0);
    char *private = mmap(0, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (shared == MAP_FAILED || view == MAP_FAILED || private == MAP_FAILED) return 2;
    if (memcmp(shared, "first", 5) || memcmp(private + 8192, "third", 5)) return 3;
    memcpy(shared + 4096, "mapped", 6);
    if (memcmp(view + 4096, "mapped", 6)) return 4;
    if (!reads(fd, 4096, "mapped") || !reads(other, 4096, "mapped")) return 5;
    if (pwrite(fd, "written", 7, 100) != 7) return 6;
    if (memcmp(shared + 100, "written", 7) || memcmp(view + 100, "written", 7)) return 7;
    memcpy(private + 8192, "PRIVATE", 7);
    if (!reads(fd, 8192, "third") || memcmp(shared + 8192, "third", 5)) return 8;
    memcpy(shared + 200, "synced", 6);
    if (msync(shared, 12288, MS_SYNC)) return 9;
    if (!reads(other, 200, "synced")) return 10;
    memcpy(shared + 300, "last", 4);
    if (munmap(shared, 12288) || munmap(view, 12288) || munmap(private, 12288)) return 11;
    if (close(fd) || !reads(other, 300, "last")) return 12;
    return 0;
}
"#;

#[test]
fn mappings_and_reads_show_each_others_writes() {
    if !has_fuse() {
        return;
    }
    let tools = tempfile::tempdir().expect("temporary directory");
    fs::write(tools.path().join("p.c"), MAPPINGS).expect("write");
    let compiled = Command::new("cc").args(["p.c", "-o", "p"]).current_dir(tools.path()).status();
    assert!(compiled.expect("cc runs").success());
    for mode in [Mode::Strict, Mode::Relatime, Mode::RoLookup] {
        let double = Double::default();
        let mount = Mounted::new(&double, mode);
        let file = create(&mount.at("file"));
        file.write_all_at(b"first", 0).expect("write");
        file.write_all_at(b"third", 8192).expect("write");
        file.set_len(12_288).expect("grow");
        let run = Command::new(tools.path().join("p")).current_dir(mount.path()).status();
        assert_eq!(run.expect("runs").code(), Some(0), "{mode}: see the program");
        // What was mapped is with the replicas: another mount reads it.
        let there = Mounted::new(&double, mode);
        let contents = fs::read(there.at("file")).expect("read");
        for (at, text) in [(0, "first"), (100, "written"), (200, "synced"), (300, "last")] {
            assert_eq!(&contents[at..at + text.len()], text.as_bytes(), "{mode}");
        }
        assert_eq!((&contents[4096..4102], &contents[8192..8197]), (&b"mapped"[..], &b"third"[..]));
    }
}
