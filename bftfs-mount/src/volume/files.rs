//! The files that are open through this mount, and what that means for unlink and fsync.
//!
//! Replicas do not know who has a file open. A mount that unlinks the last name of a file asks
//! them to keep it if it may be open here, and releases it at the last close. To know that, an
//! open counts from the moment it is asked for. An unlink that found nothing open asks for no
//! keeping; opens that come while it is under way wait for it, because it may hit their file.
//!
//! What other mounts unlink is kept if it is open here when this one hears of it. A file that is
//! being created has no number yet: what was heard waits until it has.

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
    creations: Pending,
}

/// One file that is open, or about to be.
#[derive(Default)]
struct Open {
    handles: usize,
    /// It has no name any more: to be released at the last close.
    orphan: bool,
    writes: Pending,
}

/// What is under way, and what is to be done when all of it that has begun by then has ended.
#[derive(Default)]
struct Pending {
    last: u64,
    running: BTreeSet<u64>,
    waiting: Vec<(u64, Action)>,
}

impl Pending {
    fn start(&mut self) -> u64 {
        self.last += 1;
        self.running.insert(self.last);
        self.last
    }

    /// What is to be done now.
    fn end(&mut self, ticket: u64) -> Vec<Action> {
        self.running.remove(&ticket);
        let oldest = self.running.first().copied().unwrap_or(u64::MAX);
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|(last, _)| *last < oldest);
        self.waiting = waiting;
        ready.into_iter().map(|(_, action)| action).collect()
    }

    /// Gives the action back if it is to be done now.
    fn after(&mut self, action: Action) -> Option<Action> {
        let Some(last) = self.running.last().copied() else { return Some(action) };
        self.waiting.push((last, action));
        None
    }
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

    /// A file is about to be created; returns the ticket.
    pub(super) fn creation_starts(&self) -> u64 {
        self.lock().creations.start()
    }

    /// It was created and is open by that, or was not.
    pub(super) fn creation_ends(&self, ticket: u64, created: Option<Ino>) {
        let mut table = self.lock();
        if let Some(ino) = created {
            table.open.entry(ino).or_default().handles += 1;
        }
        let ready = table.creations.end(ticket);
        drop(table);
        ready.into_iter().for_each(|action| action());
    }

    /// Does `action` when every file is counted whose creation has begun.
    pub(super) fn after_creations(&self, action: Action) {
        let ready = self.lock().creations.after(action);
        ready.into_iter().for_each(|action| action());
    }

    /// Which of these files, that have no name any more, are open here and not known to be kept.
    pub(super) fn without_names(&self, mut inos: Vec<Ino>) -> Vec<Ino> {
        let table = self.lock();
        inos.retain(|ino| table.open.get(ino).is_some_and(|open| !open.orphan));
        inos
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
        self.lock().open.get_mut(&ino).map_or(0, |open| open.writes.start())
    }

    /// The write with this ticket is answered: syncs that waited for it go on.
    pub(super) fn write_ends(&self, ino: Ino, ticket: u64) {
        let ready = self.lock().open.get_mut(&ino).map(|open| open.writes.end(ticket));
        ready.into_iter().flatten().for_each(|action| action());
    }

    /// Does `action` when every write to `ino` that has begun is answered.
    pub(super) fn after_writes(&self, ino: Ino, action: Action) {
        let ready = match self.lock().open.get_mut(&ino) {
            Some(open) => open.writes.after(action),
            None => Some(action),
        };
        ready.into_iter().for_each(|action| action());
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
        files.creation_ends(0, Some(Ino(7)));
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
    fn what_others_unlinked_is_looked_for_when_all_is_counted_that_is_being_created() {
        let files = Files::default();
        let (heard, action) = counter();
        files.after_creations(action());
        assert_eq!(heard.load(Ordering::SeqCst), 1, "nothing to wait for");
        let (first, second) = (files.creation_starts(), files.creation_starts());
        files.after_creations(action());
        let third = files.creation_starts();
        files.creation_ends(second, None);
        assert_eq!(heard.load(Ordering::SeqCst), 1);
        files.creation_ends(first, Some(Ino(7)));
        assert_eq!(heard.load(Ordering::SeqCst), 2);
        files.creation_ends(third, Some(Ino(9)));
        assert!(!files.orphaned(Ino(9)));
        assert_eq!(files.without_names(vec![Ino(9), Ino(7), Ino(8)]), [Ino(7)]);
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it_only() {
        let files = Files::default();
        let (synced, action) = counter();
        files.creation_ends(0, Some(Ino(7)));
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
