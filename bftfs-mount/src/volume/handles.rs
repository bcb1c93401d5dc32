//! File handles: the numbers that the kernel gives back with each request on an open file.

use std::collections::HashMap;
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
}

impl Handle {
    pub(super) fn file(ino: Ino, who: Credentials) -> Self {
        Self { ino, who, directory: Directory::default() }
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

    pub(super) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.lock().handles.remove(&number)
    }
}
