//! Contents of files.

use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, SeekFrom, copy_file_range, fallocate,
    fdatasync, fstat, fsync, ftruncate, mkdirat, mknodat, openat, renameat, seek, unlinkat,
};
use rustix::io::{pread, pwrite, read, write};

use super::same_as_local;
use crate::transcript::Script;
use crate::workload::Numbers;

const FILE: Mode = Mode::from_bits_retain(0o644);

#[test]
fn data_is_written_and_read_as_on_a_local_directory() {
    same_as_local(|s| {
        let file = create(s, "file", OFlags::RDWR)?;
        let mut bytes = [0; 16];
        s.run("read of nothing", |_| read(&file, &mut bytes));
        s.moves("write", "file", |_| write(&file, b"0123456789"));
        s.run("write again", |_| write(&file, b"abc"));
        s.run("seek", |_| seek(&file, SeekFrom::Start(4)));
        s.run("read", |_| read(&file, &mut bytes));
        s.note("it is", bytes);
        s.run("write inside", |_| pwrite(&file, b"XY", 2));
        s.run("write beyond", |_| pwrite(&file, b"Z", 100));
        s.run("read a hole", |_| pread(&file, &mut bytes, 90));
        s.note("it is", bytes);
        s.run("read at the end", |_| pread(&file, &mut bytes, 101));
        s.run("read beyond", |_| pread(&file, &mut bytes, 1 << 40));
        s.run("seek from the end", |_| seek(&file, SeekFrom::End(-1)));
        s.moves("a write of nothing", "file", |_| pwrite(&file, b"", 0));
        s.run("fsync", |_| fsync(&file));
        s.run("fdatasync", |_| fdatasync(&file));
        s.stat("file");
        ways_to_open(s)
    });
}

#[test]
fn appends_go_to_the_end_as_on_a_local_directory() {
    same_as_local(|s| {
        let one = create(s, "log", OFlags::WRONLY | OFlags::APPEND)?;
        let two = s.open("open again", |d| {
            openat(d, "log", OFlags::RDWR | OFlags::APPEND, Mode::empty())
        })?;
        for round in 0..4_u8 {
            s.run("append", |_| write(&one, &[b'a' + round; 3]));
            s.run("append to the other", |_| write(&two, &[b'A' + round; 5]));
        }
        let mut bytes = [0; 64];
        s.run("read all", |_| pread(&two, &mut bytes, 0));
        s.note("it is", String::from_utf8_lossy(&bytes));
        s.run("cut", |_| ftruncate(&two, 2));
        s.run("append", |_| write(&one, b"end"));
        s.stat("log");
        Ok(())
    });
}

#[test]
fn open_files_live_on_without_a_name_as_on_a_local_directory() {
    same_as_local(|s| {
        let file = create(s, "file", OFlags::RDWR)?;
        let other = create(s, "other", OFlags::RDWR)?;
        s.run("write", |_| write(&file, b"still here"));
        s.run("write", |_| write(&other, b"replaced"));
        s.run("unlink", |d| unlinkat(d, "file", AtFlags::empty()));
        s.run("mknod of the same name", |d| mknodat(d, "file", FileType::RegularFile, FILE, 0));
        s.run("rename over the other", |d| renameat(d, "file", d, "other"));
        for open in [&file, &other] {
            let mut bytes = [0; 16];
            s.run("read", |_| pread(open, &mut bytes, 0));
            s.note("it is", bytes);
            s.run("write", |_| pwrite(open, b"more", 20));
            s.run("cut", |_| ftruncate(open, 22));
            s.run("fsync", |_| fsync(open));
            s.run("fstat", |_| fstat(open).map(|stat| (stat.st_size, stat.st_nlink)));
        }
        s.stat("file");
        s.stat("other");
        open_directory_is_removed(s)
    });
}

#[test]
fn files_may_be_larger_than_four_gibibytes_and_have_holes() {
    same_as_local(|s| {
        let file = create(s, "large", OFlags::RDWR)?;
        let beyond = (5 << 30) + 123;
        s.run("write beyond 5 GiB", |_| pwrite(&file, b"far away", beyond));
        s.run("write beyond 4 GiB", |_| pwrite(&file, b"nearer", (1 << 32) - 3));
        s.stat("large");
        let mut bytes = [0xff; 8];
        for offset in [0, 1 << 31, (1 << 32) - 3, beyond, beyond + 4, beyond + 8] {
            s.run(&format!("read at {offset}"), |_| pread(&file, &mut bytes, offset));
            s.note("it is", bytes);
        }
        s.run("cut inside", |_| ftruncate(&file, (1 << 32) + 1));
        s.run("grow again", |_| ftruncate(&file, 6 << 30));
        s.run("read what was cut", |_| pread(&file, &mut bytes, (1 << 32) - 3));
        s.note("it is", bytes);
        s.stat("large");
        s.run("few blocks are used", |_| fstat(&file).map(|stat| stat.st_blocks < 1 << 16));
        Ok(())
    });
}

#[test]
fn random_writes_read_back_as_on_a_local_directory() {
    same_as_local(|s| {
        let file = create(s, "file", OFlags::RDWR)?;
        let mut numbers = Numbers::new(42);
        for round in 0..150_u8 {
            let offset = numbers.below(300_000);
            let length = usize::try_from(numbers.below(70_000))?;
            let bytes = length as u64;
            match numbers.below(8) {
                0 => s.run("cut", |_| ftruncate(&file, offset)),
                1 => s.run("punch", |_| {
                    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(&file, mode, offset, bytes)
                }),
                2 => s.run("zero", |_| fallocate(&file, FallocateFlags::ZERO_RANGE, offset, bytes)),
                3 => s.run("copy", |_| {
                    let (mut from, mut to) = (offset, numbers.below(300_000));
                    copy_file_range(&file, Some(&mut from), &file, Some(&mut to), length)
                        .map(|_| ())
                }),
                4 | 5 => {
                    let mut bytes = vec![0; length];
                    let read = s.run("read", |_| pread(&file, &mut bytes, offset));
                    bytes.truncate(read.unwrap_or(0));
                    s.note("sum", bytes.iter().map(|b| u64::from(*b)).sum::<u64>());
                    None
                }
                _ => s.run("write", |_| pwrite(&file, &vec![round; length], offset).map(|_| ())),
            };
        }
        let mut all = vec![0; 512 * 1024];
        let length = fill(&file, &mut all)?;
        s.note("in the end", (length, all.iter().fold(0_u64, checksum)));
        Ok(())
    });
}

#[test]
fn large_writes_arrive_whole() {
    same_as_local(|s| {
        let file = create(s, "large", OFlags::RDWR)?;
        let mut numbers = Numbers::new(7);
        let bytes: Vec<u8> = (0..5 << 20).map(|_| numbers.byte()).collect();
        let mut written = 0;
        while written < bytes.len() {
            written += write(&file, &bytes[written..])?;
        }
        s.run("fsync", |_| fsync(&file));
        let mut back = vec![0; bytes.len() + 1];
        s.note("reads back", (fill(&file, &mut back)?, back[..bytes.len()] == bytes));
        Ok(())
    });
}

fn create(s: &mut Script, name: &str, flags: OFlags) -> Result<OwnedFd> {
    s.open(&format!("create {name}"), |d| openat(d, name, flags | OFlags::CREATE, FILE))
}

/// Reads from the beginning until the end or until `bytes` is full.
fn fill(file: &OwnedFd, bytes: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match pread(file, &mut bytes[filled..], filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

fn checksum(sum: u64, byte: &u8) -> u64 {
    sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte)
}

fn ways_to_open(s: &mut Script) -> Result<()> {
    s.run("mkdir", |d| mkdirat(d, "dir", Mode::from(0o755)));
    for (name, flags) in [
        ("missing", OFlags::RDONLY),
        ("dir", OFlags::WRONLY),
        ("dir", OFlags::RDONLY),
        ("file", OFlags::DIRECTORY),
        ("dir", OFlags::DIRECTORY),
        ("dir/", OFlags::CREATE | OFlags::WRONLY),
        ("file/", OFlags::RDONLY),
        ("file", OFlags::CREATE | OFlags::EXCL),
    ] {
        s.try_open(&format!("open {name} {flags:?}"), |d| openat(d, name, flags, FILE));
    }
    let writer = s.open("open to write", |d| openat(d, "file", OFlags::WRONLY, FILE))?;
    s.run("read of a writer", |_| read(&writer, &mut [0; 4]));
    let reader = s.open("open to read", |d| openat(d, "file", OFlags::RDONLY, FILE))?;
    s.run("write of a reader", |_| write(&reader, b"x"));
    let dir = s.open("open dir", |d| openat(d, "dir", OFlags::RDONLY, FILE))?;
    s.run("read of a directory", |_| read(&dir, &mut [0; 4]));
    s.run("fsync of a directory", |_| fsync(&dir));
    s.try_open("open to cut", |d| openat(d, "file", OFlags::WRONLY | OFlags::TRUNC, FILE));
    s.stat("file");
    Ok(())
}

fn open_directory_is_removed(s: &mut Script) -> Result<()> {
    s.run("mkdir", |d| mkdirat(d, "dir", Mode::from(0o755)));
    let dir = s.open("open dir", |d| openat(d, "dir", OFlags::DIRECTORY, Mode::empty()))?;
    s.run("rmdir", |d| unlinkat(d, "dir", AtFlags::REMOVEDIR));
    s.run("mkdir in what was removed", |_| mkdirat(&dir, "x", Mode::from(0o755)));
    s.try_open("create in what was removed", |_| {
        openat(&dir, "x", OFlags::CREATE | OFlags::WRONLY, FILE)
    });
    Ok(())
}
