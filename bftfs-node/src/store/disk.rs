//! Every change of the store's files is made here, so that a test can crash at each of them.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data::Durability;

/// The directory of the store.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    dir: Arc<Path>,
    durability: Durability,
}

/// A file in it.
#[derive(Debug)]
pub(super) struct DiskFile {
    path: PathBuf,
    file: File,
}

/// A change of files.
pub(super) enum Op<'a> {
    Create(&'a Path),
    Write(&'a Path, u64, &'a [u8]),
    Truncate(&'a Path, u64),
    Sync(&'a Path),
    SyncNames(&'a Path),
    Remove(&'a Path),
}

impl fmt::Display for Op<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path) => write!(f, "create {}", path.display()),
            Self::Write(path, at, bytes) => {
                write!(f, "write {} bytes at {at} of {}", bytes.len(), path.display())
            }
            Self::Truncate(path, len) => write!(f, "cut {} to {len} bytes", path.display()),
            Self::Sync(path) | Self::SyncNames(path) => write!(f, "sync {}", path.display()),
            Self::Remove(path) => write!(f, "remove {}", path.display()),
        }
    }
}

impl DiskFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Has the kernel forget what it holds of the file, so that the disk is read.
    pub(super) fn forget_cached(&self) {
        // Where that is refused, what is cached is read: less is found, nothing is lost.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }

    pub(super) fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }
}

impl Disk {
    pub(super) fn new(dir: &Path, durability: Durability) -> Self {
        Self { dir: dir.into(), durability }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Opens a file to read it.
    pub(super) fn open(&self, name: &str) -> io::Result<DiskFile> {
        let path = self.path(name);
        let file = File::open(&path)?;
        Ok(DiskFile { path, file })
    }

    /// Opens a file to write on in it.
    pub(super) fn reopen(&self, name: &str) -> io::Result<DiskFile> {
        let path = self.path(name);
        let file = File::options().read(true).write(true).open(&path)?;
        Ok(DiskFile { path, file })
    }

    /// Makes an empty file; what had its name is cut.
    pub(super) fn create(&self, name: &str) -> io::Result<DiskFile> {
        let path = self.path(name);
        let make =
            || File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = self.perform(&Op::Create(&path), make)?;
        Ok(DiskFile { path, file })
    }

    pub(super) fn write(&self, file: &DiskFile, bytes: &[u8], at: u64) -> io::Result<()> {
        let op = Op::Write(&file.path, at, bytes);
        self.perform(&op, || file.file.write_all_at(bytes, at))
    }

    pub(super) fn truncate(&self, file: &DiskFile, len: u64) -> io::Result<()> {
        self.perform(&Op::Truncate(&file.path, len), || file.file.set_len(len))
    }

    /// Makes the contents of a file durable, as far as the durability asked for goes.
    pub(super) fn sync(&self, file: &DiskFile) -> io::Result<()> {
        if self.durability == Durability::Replicated {
            return Ok(());
        }
        self.perform(&Op::Sync(&file.path), || file.file.sync_data())
    }

    /// The same for the names of files.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        if self.durability == Durability::Replicated {
            return Ok(());
        }
        self.perform(&Op::SyncNames(&self.dir), || File::open(&self.dir)?.sync_all())
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        self.perform(&Op::Remove(&path), || fs::remove_file(&path))
    }

    /// Does it, and says what was tried if it fails.
    fn perform<T>(&self, op: &Op<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        #[cfg(test)]
        let act = || super::tests::record::perform(&self.dir, op, act);
        act().map_err(|error| io::Error::new(error.kind(), format!("cannot {op}: {error}")))
    }
}
