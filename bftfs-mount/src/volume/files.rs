//! The files that are open through this mount, and what that means for unlink and fsync.
//!
//! Replicas do not know who has a file open. A mount that unlinks the last name of a file asks
//! them to keep it if it may be open here, and releases it at the last close. To know that, an
//! open counts from the moment it is asked for. An unlink that found nothing open asks for no
//! keeping; opens that come while it is under way wait for it, because it may hit their file.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bftfs_fs::Ino;

/// Something to do later.
pub(super) type Action = Box<dyn FnOnce() + Send>;

/// The open files of one mount.
#[derive(Debug, Default)]
pub(super) struct Files {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: HashMap<Ino, Open>,
    /// Unlinks under way that do not ask to keep anything.
    bare_unlinks: usize,
    /// Opens that wait for them.
    parked: Vec<Action>,
}

/// One file that is open, or about to be.
#[derive(Default)]
struct Open {
    handles: usize,
    /// It has no name any more: to be released at the last close.
    orphan: bool,
    next_write: u64,
    writes: BTreeSet<u64>,
    syncs: Vec<(u64, Action)>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `ino` as open, then asks for it, at once or when no bare unlink is under way.
    pub(super) fn open(&self, ino: Ino, ask: Action) {
        let mut table = self.lock();
        table.open.entry(ino).or_default().handles += 1;
        if table.bare_unlinks > 0 {
            table.parked.push(ask);
            return;
        }
        drop(table);
        ask();
    }

    /// Counts a file that was just created and is open by that.
    pub(super) fn created(&self, ino: Ino) {
        self.lock().open.entry(ino).or_default().handles += 1;
    }

    /// Counts a close, or an open that failed. True if the file must be released.
    #[must_use]
    pub(super) fn close(&self, ino: Ino) -> bool {
        let mut table = self.lock();
        let Some(open) = table.open.get_mut(&ino) else { return false };
        open.handles = open.handles.saturating_sub(1);
        open.handles == 0 && table.open.remove(&ino).is_some_and(|open| open.orphan)
    }

    /// An unlink or rename is about to be asked for. True if it must keep what it orphans.
    #[must_use]
    pub(super) fn unlink_starts(&self) -> bool {
        let mut table = self.lock();
        let keep = !table.open.is_empty();
        table.bare_unlinks += usize::from(!keep);
        keep
    }

    /// It is done: opens that waited for it are asked for now.
    pub(super) fn unlink_ends(&self, keep: bool) {
        let mut table = self.lock();
        table.bare_unlinks -= usize::from(!keep);
        if table.bare_unlinks > 0 {
            return;
        }
        let parked = std::mem::take(&mut table.parked);
        drop(table);
        parked.into_iter().for_each(|ask| ask());
    }

    /// A file lost its last name and was kept. True if it is not open here: release it at once.
    #[must_use]
    pub(super) fn orphaned(&self, ino: Ino) -> bool {
        let mut table = self.lock();
        let open = table.open.get_mut(&ino);
        open.map(|open| open.orphan = true).is_none()
    }

    /// A write to `ino` begins; returns its ticket.
    pub(super) fn write_starts(&self, ino: Ino) -> u64 {
        let mut table = self.lock();
        let Some(open) = table.open.get_mut(&ino) else { return 0 };
        open.next_write += 1;
        open.writes.insert(open.next_write);
        open.next_write
    }

    /// The write with this ticket is answered: syncs that waited for it go on.
    pub(super) fn write_ends(&self, ino: Ino, ticket: u64) {
        let mut table = self.lock();
        let Some(open) = table.open.get_mut(&ino) else { return };
        open.writes.remove(&ticket);
        let oldest = open.writes.first().copied().unwrap_or(u64::MAX);
        let (ready, waiting) = std::mem::take(&mut open.syncs)
            .into_iter()
            .partition::<Vec<_>, _>(|(last, _)| *last < oldest);
        open.syncs = waiting;
        drop(table);
        ready.into_iter().for_each(|(_, action)| action());
    }

    /// Does `action` when every write to `ino` that has begun is answered.
    pub(super) fn after_writes(&self, ino: Ino, action: Action) {
        let mut table = self.lock();
        if let Some(open) = table.open.get_mut(&ino)
            && let Some(last) = open.writes.last().copied()
        {
            open.syncs.push((last, action));
            return;
        }
        drop(table);
        action();
    }

    /// Files open now.
    pub(super) fn count(&self) -> usize {
        self.lock().open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn counter() -> (Arc<AtomicUsize>, impl Fn() -> Action) {
        let count = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&count);
        let action = move || -> Action {
            let count = Arc::clone(&shared);
            Box::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            })
        };
        (count, action)
    }

    #[test]
    fn an_orphan_is_released_at_the_last_close() {
        let files = Files::default();
        let (asked, ask) = counter();
        files.open(Ino(7), ask());
        files.open(Ino(7), ask());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert!(files.unlink_starts());
        assert!(!files.orphaned(Ino(7)), "it is open here");
        assert!(files.orphaned(Ino(8)), "it is not");
        files.unlink_ends(true);
        assert!(!files.close(Ino(7)));
        assert!(files.close(Ino(7)));
        assert_eq!(files.count(), 0);
        files.created(Ino(7));
        assert!(!files.close(Ino(7)), "a file with a name needs no release");
    }

    #[test]
    fn an_open_waits_for_unlinks_that_keep_nothing() {
        let files = Files::default();
        let (asked, ask) = counter();
        let first = files.unlink_starts();
        let second = files.unlink_starts();
        assert!(!first && !second);
        files.open(Ino(7), ask());
        assert!(files.unlink_starts(), "from now on one may be open");
        files.unlink_ends(first);
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        files.unlink_ends(second);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        files.open(Ino(8), ask());
        assert_eq!(asked.load(Ordering::SeqCst), 2, "one that keeps is no reason to wait");
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it_only() {
        let files = Files::default();
        let (synced, action) = counter();
        files.created(Ino(7));
        files.after_writes(Ino(7), action());
        assert_eq!(synced.load(Ordering::SeqCst), 1, "nothing to wait for");
        let (a, b) = (files.write_starts(Ino(7)), files.write_starts(Ino(7)));
        files.after_writes(Ino(7), action());
        let c = files.write_starts(Ino(7));
        files.write_ends(Ino(7), b);
        assert_eq!(synced.load(Ordering::SeqCst), 1);
        files.write_ends(Ino(7), a);
        assert_eq!(synced.load(Ordering::SeqCst), 2);
        files.write_ends(Ino(7), c);
        files.after_writes(Ino(7), action());
        assert_eq!(synced.load(Ordering::SeqCst), 3);
    }
}
