//! A record of every change of the files in a directory, and what a crash may leave of them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::disk::Op;

/// A change of files, kept.
#[derive(Clone, Debug)]
pub(in crate::store) enum Change {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    Sync(PathBuf),
    SyncNames,
    Remove(PathBuf),
    /// Checkpoint `.0` is about to be written, or (`.1`) was reported to be durable.
    Mark(u64, bool),
}

/// What happened in the directories that are recorded.
static RECORDS: Mutex<BTreeMap<PathBuf, Vec<Change>>> = Mutex::new(BTreeMap::new());

fn records() -> MutexGuard<'static, BTreeMap<PathBuf, Vec<Change>>> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(in crate::store) fn start(dir: &Path) {
    records().insert(dir.to_owned(), Vec::new());
}

pub(in crate::store) fn take(dir: &Path) -> Vec<Change> {
    records().remove(dir).expect("it was started")
}

pub(in crate::store) fn mark(dir: &Path, seq: u64, durable: bool) {
    records().get_mut(dir).expect("it was started").push(Change::Mark(seq, durable));
}

/// How many more changes the disk of a directory takes before it fails one.
static FAILURES: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

/// Has the disk of this directory fail one change, after `changes` more.
pub(in crate::store) fn fail_after(dir: &Path, changes: u64) {
    FAILURES.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned(), changes);
}

/// Whether the change has failed that was to; it is not asked for again.
pub(in crate::store) fn has_failed(dir: &Path) -> bool {
    FAILURES.lock().unwrap_or_else(PoisonError::into_inner).remove(dir).is_none()
}

fn fails(dir: &Path) -> bool {
    let mut failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(left) = failures.get_mut(dir) else { return false };
    let now = *left == 0;
    *left = left.saturating_sub(1);
    if now {
        failures.remove(dir);
    }
    now
}

/// Does it and records it, in one, if the directory is recorded.
pub(in crate::store) fn perform<T>(
    dir: &Path,
    op: &Op<'_>,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    if fails(dir) {
        return Err(io::Error::other("the disk fails (EIO)"));
    }
    let mut records = records();
    let Some(record) = records.get_mut(dir) else {
        drop(records);
        return act();
    };
    let done = act()?;
    record.push(match *op {
        Op::Create(path) => Change::Create(path.to_owned()),
        Op::Write(path, at, bytes) => Change::Write(path.to_owned(), at, bytes.to_vec()),
        Op::Truncate(path, len) => Change::Truncate(path.to_owned(), len),
        Op::Sync(path) => Change::Sync(path.to_owned()),
        Op::SyncNames(_) => Change::SyncNames,
        Op::Remove(path) => Change::Remove(path.to_owned()),
    });
    Ok(done)
}

/// What becomes of changes that were not synced.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Fate {
    Lost,
    Kept,
    /// Some are kept, some lost, and some writes are half done.
    Torn(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// A disk that has been told of changes.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Model {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
}

impl Model {
    /// The disk as a directory is now, all of it durable.
    pub(in crate::store) fn of(dir: &Path) -> Self {
        let mut model = Self::default();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let durable = fs::read(&path).unwrap();
            model.names.insert(path, model.inodes.len());
            model.inodes.push(Inode { durable, pending: Vec::new() });
        }
        model.durable_names = model.names.clone();
        model
    }

    pub(in crate::store) fn apply(&mut self, change: &Change) {
        match change {
            Change::Create(path) => match self.names.get(path) {
                Some(inode) => {
                    let cut = Change::Truncate(path.clone(), 0);
                    self.inodes[*inode].pending.push(cut);
                }
                None => {
                    self.names.insert(path.clone(), self.inodes.len());
                    self.inodes.push(Inode::default());
                }
            },
            Change::Write(path, ..) | Change::Truncate(path, _) => {
                let inode = self.names[path];
                self.inodes[inode].pending.push(change.clone());
            }
            Change::Sync(path) => {
                // What is synced may be removed meanwhile.
                let Some(inode) = self.names.get(path) else { return };
                let inode = &mut self.inodes[*inode];
                for change in std::mem::take(&mut inode.pending) {
                    change_bytes(&mut inode.durable, &change);
                }
            }
            Change::SyncNames => self.durable_names = self.names.clone(),
            Change::Remove(path) => drop(self.names.remove(path)),
            Change::Mark(..) => {}
        }
    }

    /// The files after a crash.
    pub(in crate::store) fn crash(&self, fate: Fate) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut random = match fate {
            Fate::Torn(seed) => seed.wrapping_mul(2) | 1,
            Fate::Lost | Fate::Kept => 1,
        };
        let mut coin = |sides: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % sides
        };
        let names = match fate {
            Fate::Lost => &self.durable_names,
            Fate::Kept => &self.names,
            Fate::Torn(_) if coin(2) == 0 => &self.durable_names,
            Fate::Torn(_) => &self.names,
        };
        let mut files = BTreeMap::new();
        for (path, inode) in names {
            let Inode { durable, pending } = &self.inodes[*inode];
            let mut bytes = durable.clone();
            for change in pending {
                let change = match (fate, coin(3)) {
                    (Fate::Lost, _) | (Fate::Torn(_), 0) => continue,
                    (Fate::Kept, _) | (Fate::Torn(_), 1) => change.clone(),
                    (Fate::Torn(_), _) => tear(change, coin(1 << 20)),
                };
                change_bytes(&mut bytes, &change);
            }
            files.insert(path.clone(), bytes);
        }
        files
    }
}

/// A write that ends early.
fn tear(change: &Change, random: u64) -> Change {
    match change {
        Change::Write(path, at, bytes) => {
            let len = usize::try_from(random).unwrap() % (bytes.len() + 1);
            Change::Write(path.clone(), *at, bytes[..len].to_vec())
        }
        other => other.clone(),
    }
}

fn change_bytes(file: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(_, at, bytes) => {
            let at = usize::try_from(*at).unwrap();
            file.resize(file.len().max(at + bytes.len()), 0);
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Change::Truncate(_, len) => file.resize(usize::try_from(*len).unwrap(), 0),
        other => panic!("{other:?} changes no bytes"),
    }
}
