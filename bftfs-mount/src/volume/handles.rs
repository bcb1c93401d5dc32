//! File handles: the numbers that the kernel gives back with each request on an open file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bftfs_fs::{Credentials, Ino};

use super::Error;
use super::directory::Directory;

/// What a handle stands for.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) ino: Ino,
    /// Who opened it: permission is theirs, whoever uses it later.
    pub(super) who: Credentials,
    /// For a directory, what was read ahead.
    pub(super) directory: Directory,
    /// It had locks that the replicas dropped: nothing is read or written any more.
    pub(super) lost: AtomicBool,
}

impl Handle {
    pub(super) fn file(ino: Ino, who: Credentials) -> Self {
        Self::directory(ino, who, Directory::default())
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn directory(ino: Ino, who: Credentials, directory: Directory) -> Self {
        Self { ino, who, directory, lost: AtomicBool::new(false) }
    }
}

/// The handles of one mount. Their number is bounded by what the kernel lets processes open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    handles: HashMap<u64, Arc<Handle>>,
    last: u64,
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        table.handles.insert(number, Arc::new(handle));
        number
    }

    pub(super) fn get(&self, number: u64) -> Result<Arc<Handle>, Error> {
        self.lock().handles.get(&number).cloned().ok_or(Error::BADF)
    }

    /// A handle to read or write through.
    pub(super) fn get_sound(&self, number: u64) -> Result<Arc<Handle>, Error> {
        let file = self.get(number)?;
        if file.is_lost() { Err(Error::IO) } else { Ok(file) }
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.lock().handles.remove(&number)
    }
}
