//! The file operations that are measured one by one.
//!
//! Names are relative to an open directory, so that an operation costs the same at any depth: what
//! a longer path adds is one lookup per component. Each operation looks at what it got back, so
//! that a broken file system cannot look fast.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Advice, AtFlags, Dir, Mode, OFlags};

/// Size of one small read or write.
const BLOCK_BYTES: usize = 4 << 10;
/// Blocks of the file that small reads and writes go over.
const FILE_BLOCKS: u64 = 256;
/// Steps between two blocks: odd, so that all are visited, and far from sequential.
const BLOCK_STRIDE: u64 = 97;
/// Size of one sequential read or write.
const CHUNK_BYTES: usize = 1 << 20;

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Mkdir,
    Create,
    Stat,
    Read,
    Write,
    WriteFsync,
    Rename,
    Unlink,
    Readdir,
    SequentialWrite,
    SequentialRead,
}

/// How much the operations work on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Entries of the directory that is listed.
    pub entries: usize,
    /// MiB of the file that is written and read sequentially.
    pub mebibytes: usize,
}

/// One step of a measurement: the operation for the given index.
pub(crate) type Step = Box<dyn FnMut(usize) -> Result<()> + Send>;

impl Op {
    /// All operations, in the table's order.
    pub(crate) const ALL: [Self; 11] = [
        Self::Mkdir,
        Self::Create,
        Self::Stat,
        Self::Read,
        Self::Write,
        Self::WriteFsync,
        Self::Rename,
        Self::Unlink,
        Self::Readdir,
        Self::SequentialWrite,
        Self::SequentialRead,
    ];

    /// The operation's name in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mkdir => "mkdir",
            Self::Create => "create_close",
            Self::Stat => "stat",
            Self::Read => "read_4k",
            Self::Write => "write_4k",
            Self::WriteFsync => "write_4k_fsync",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::Readdir => "readdir",
            Self::SequentialWrite => "sequential_write",
            Self::SequentialRead => "sequential_read",
        }
    }

    /// Bytes that one step moves; 0 where that is no measure.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Read | Self::Write | Self::WriteFsync => BLOCK_BYTES,
            Self::SequentialWrite | Self::SequentialRead => CHUNK_BYTES,
            _ => 0,
        }
    }

    /// How many steps a single thread takes of this operation where `count` are asked for.
    pub(crate) fn steps(self, count: usize, sizes: Sizes) -> usize {
        match self {
            Self::SequentialWrite | Self::SequentialRead => sizes.mebibytes,
            // A listing is worth many operations.
            Self::Readdir => count.div_ceil(20),
            _ => count,
        }
    }

    /// Whether all threads work in one directory: making its entries for each would take long.
    pub(crate) fn shares_dir(self) -> bool {
        self == Self::Readdir
    }

    /// Whether several threads may share the work.
    pub(crate) fn is_concurrent(self) -> bool {
        !matches!(self, Self::SequentialWrite | Self::SequentialRead)
    }

    /// Prepares `steps` steps of one thread in the directory `dir`, which is empty unless it is
    /// shared.
    ///
    /// # Errors
    /// If the files that the operation needs cannot be made.
    pub(crate) fn prepare(self, dir: &Path, steps: usize, sizes: Sizes) -> Result<Step> {
        let at = open_dir(dir)?;
        Ok(match self {
            Self::Mkdir => Box::new(move |index| {
                Ok(rustix::fs::mkdirat(&at, entry(index), Mode::from_raw_mode(0o755))?)
            }),
            Self::Create => Box::new(move |index| create(&at, &entry(index)).map(drop)),
            Self::Unlink => {
                make_entries(&at, steps)?;
                Box::new(move |index| {
                    Ok(rustix::fs::unlinkat(&at, entry(index), AtFlags::empty())?)
                })
            }
            Self::Stat => stat(at)?,
            Self::Read => read(dir)?,
            Self::Write => write(dir, false)?,
            Self::WriteFsync => write(dir, true)?,
            Self::Rename => rename(at)?,
            Self::Readdir => readdir(at, sizes.entries)?,
            Self::SequentialWrite => sequential_write(dir, steps)?,
            Self::SequentialRead => sequential_read(dir, steps)?,
        })
    }

    /// Fails unless `dir` holds what `steps` steps should have left.
    pub(crate) fn check(self, dir: &Path, steps: usize) -> Result<()> {
        let wanted = match self {
            Self::Mkdir | Self::Create => steps,
            Self::Unlink => 0,
            Self::Stat | Self::Read | Self::Rename => 1,
            Self::SequentialWrite | Self::SequentialRead => 1,
            Self::Write | Self::WriteFsync => return check_blocks(dir, steps),
            // It looks at every listing itself.
            Self::Readdir => return Ok(()),
        };
        let found = fs::read_dir(dir)?.count();
        ensure!(found == wanted, "{} holds {found} entries, not {wanted}", dir.display());
        Ok(())
    }
}

fn open_dir(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

fn entry(index: usize) -> String {
    format!("entry-{index}")
}

fn create(at: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o644))?)
}

fn make_entries(at: &OwnedFd, count: usize) -> Result<()> {
    for index in 0..count {
        create(at, &entry(index)).context("cannot make the files to work on")?;
    }
    Ok(())
}

fn stat(at: OwnedFd) -> Result<Step> {
    File::from(create(&at, "file")?).write_all_at(&block(0), 0)?;
    Ok(Box::new(move |_| {
        let size = rustix::fs::statat(&at, "file", AtFlags::SYMLINK_NOFOLLOW)?.st_size;
        ensure!(size == BLOCK_BYTES as i64, "stat told {size} bytes, not {BLOCK_BYTES}");
        Ok(())
    }))
}

/// A block's contents: its number, over and over.
fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK_BYTES / size_of::<u64>())
}

/// The block that step `index` reads or writes.
fn block_number(index: usize) -> u64 {
    (index as u64).wrapping_mul(BLOCK_STRIDE) % FILE_BLOCKS
}

fn block_file(dir: &Path) -> Result<File> {
    let options = OpenOptions::new().read(true).write(true).create_new(true).to_owned();
    let file = options.open(dir.join("file"))?;
    let contents: Vec<Vec<u8>> = (0..FILE_BLOCKS).map(block).collect();
    file.write_all_at(&contents.concat(), 0)?;
    Ok(file)
}

fn read(dir: &Path) -> Result<Step> {
    let file = block_file(dir)?;
    let mut buffer = vec![0; BLOCK_BYTES];
    Ok(Box::new(move |index| {
        let number = block_number(index);
        file.read_exact_at(&mut buffer, number * BLOCK_BYTES as u64)?;
        ensure!(buffer.starts_with(&number.to_le_bytes()), "block {number} was read wrongly");
        Ok(())
    }))
}

/// What step `index` writes: not what was there before.
fn written(index: usize) -> Vec<u8> {
    block(FILE_BLOCKS + index as u64)
}

fn write(dir: &Path, sync: bool) -> Result<Step> {
    let file = block_file(dir)?;
    Ok(Box::new(move |index| {
        file.write_all_at(&written(index), block_number(index) * BLOCK_BYTES as u64)?;
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }))
}

/// Every block must hold what was last written to it, or what it held at first.
fn check_blocks(dir: &Path, steps: usize) -> Result<()> {
    let contents = fs::read(dir.join("file"))?;
    let mut wanted: Vec<Vec<u8>> = (0..FILE_BLOCKS).map(block).collect();
    for index in 0..steps {
        let number = usize::try_from(block_number(index)).context("a block number is small")?;
        wanted[number] = written(index);
    }
    ensure!(contents == wanted.concat(), "{} does not hold what was written", dir.display());
    Ok(())
}

fn rename(at: OwnedFd) -> Result<Step> {
    let names = ["this", "that"];
    create(&at, names[0])?;
    Ok(Box::new(move |index| {
        let (from, to) = (names[index % 2], names[(index + 1) % 2]);
        Ok(rustix::fs::renameat(&at, from, &at, to)?)
    }))
}

/// The names in a directory, as opendir(3) and readdir(3) list them.
fn list(at: &OwnedFd) -> Result<usize> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut found = 0;
    for entry in Dir::new(rustix::fs::openat(at, ".", flags, Mode::empty())?)? {
        let name = entry?;
        found += usize::from(!matches!(name.file_name().to_bytes(), b"." | b".."));
    }
    Ok(found)
}

fn readdir(at: OwnedFd, entries: usize) -> Result<Step> {
    if list(&at)? == 0 {
        make_entries(&at, entries)?;
    }
    Ok(Box::new(move |_| {
        let found = list(&at)?;
        ensure!(found == entries, "the listing had {found} entries, not {entries}");
        Ok(())
    }))
}

/// A chunk's contents begin with its number.
fn mark(chunk: &mut [u8], index: usize) {
    chunk[..size_of::<u64>()].copy_from_slice(&(index as u64).to_le_bytes());
}

fn sequential_write(dir: &Path, steps: usize) -> Result<Step> {
    let file = File::create_new(dir.join("file"))?;
    let mut chunk = vec![0x5a; CHUNK_BYTES];
    Ok(Box::new(move |index| {
        mark(&mut chunk, index);
        file.write_all_at(&chunk, (index * CHUNK_BYTES) as u64)?;
        if index + 1 == steps {
            file.sync_all()?;
        }
        Ok(())
    }))
}

fn sequential_read(dir: &Path, steps: usize) -> Result<Step> {
    let mut fill = sequential_write(dir, steps)?;
    for index in 0..steps {
        fill(index)?;
    }
    drop(fill);
    let file = File::open(dir.join("file"))?;
    // The target's own pages are dropped; what lies under it may still be in memory.
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    Ok(Box::new(move |index| {
        file.read_exact_at(&mut chunk, (index * CHUNK_BYTES) as u64)?;
        ensure!(chunk.starts_with(&(index as u64).to_le_bytes()), "chunk {index} is wrong");
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { entries: 10, mebibytes: 2 };

    fn run(op: Op, steps: usize) -> (tempfile::TempDir, usize) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let steps = op.steps(steps, SIZES);
        let mut step = op.prepare(dir.path(), steps, SIZES).expect("prepared");
        for index in 0..steps {
            step(index).expect("a step");
        }
        (dir, steps)
    }

    #[test]
    fn every_operation_works_on_a_plain_directory() {
        for op in Op::ALL {
            let (dir, steps) = run(op, 7);
            op.check(dir.path(), steps).unwrap_or_else(|e| panic!("{}: {e:#}", op.name()));
        }
    }

    #[test]
    fn lost_entries_and_writes_are_seen() {
        let (dir, steps) = run(Op::Mkdir, 3);
        fs::remove_dir(dir.path().join(entry(1))).expect("rmdir");
        assert!(Op::Mkdir.check(dir.path(), steps).is_err());

        let (dir, steps) = run(Op::Write, 3);
        let file = OpenOptions::new().write(true).open(dir.path().join("file")).expect("open");
        file.write_all_at(&block(0), 0).expect("write");
        assert!(Op::Write.check(dir.path(), steps).is_err(), "the first write was undone");
    }

    #[test]
    fn a_wrong_block_is_seen_when_it_is_read() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut step = Op::Read.prepare(dir.path(), 2, SIZES).expect("prepared");
        let file = OpenOptions::new().write(true).open(dir.path().join("file")).expect("open");
        file.write_all_at(&block(5), BLOCK_STRIDE * BLOCK_BYTES as u64).expect("write");
        step(0).expect("the first block is whole");
        assert!(step(1).is_err());
    }
}
