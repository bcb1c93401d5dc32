//! Which owners may hold locks here, and through which handles.
//!
//! The replicas know who holds what. A mount only has to know when it must tell them that an owner
//! lets go of everything, so it remembers who may hold something: a little too many do no harm.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bftfs_fs::Ino;

/// An owner on one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) ino: Ino,
    pub(super) number: u64,
}

/// What an answer of the replicas says about an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Nothing,
    /// As before.
    Same,
    /// Something, or nobody knows.
    Perhaps,
}

/// Asks for a lock; or not, if it is told false.
type Ask = Box<dyn FnOnce(bool) + Send>;

/// What is known of one owner.
#[derive(Default)]
struct Known {
    /// Where it asked for locks. Without any it is to let go of everything.
    handles: BTreeSet<u64>,
    /// Operations under way.
    asking: usize,
    /// Some of them overlap, so that the last answer is not the last word.
    mixed: bool,
    holds: bool,
    /// How often it is letting go just now.
    releasing: usize,
    /// It could not let go: that is tried again until it is done.
    late: bool,
    /// What it asks for through which handle when it has let go.
    parked: Vec<(u64, Ask)>,
}

/// The owners of one mount.
#[derive(Default)]
pub(super) struct Owners {
    table: Mutex<HashMap<Owner, Known>>,
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owners").field("owners", &self.lock().len()).finish()
    }
}

impl Owners {
    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, Known>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an owner may hold or wait for anything.
    pub(super) fn may_hold(&self, owner: Owner) -> bool {
        self.lock().contains_key(&owner)
    }

    /// An owner asks for a lock: at once, or when it has let go of what it had. The kernel gives
    /// the number of a closed file to the next one, whose locks must not go with it.
    pub(super) fn asks(&self, owner: Owner, handle: u64, ask: Ask) {
        let mut table = self.lock();
        let known = table.entry(owner).or_default();
        if known.releasing > 0 {
            known.parked.push((handle, ask));
            return;
        }
        let may = known.may_ask(handle);
        drop(table);
        ask(may);
    }

    /// An owner is about to let go of everything.
    pub(super) fn lets_go(&self, owner: Owner) {
        let mut table = self.lock();
        let known = table.entry(owner).or_default();
        known.begins();
        known.releasing += 1;
    }

    /// It has, or could not and will try again. What was asked for meanwhile is asked for now.
    pub(super) fn has_let_go(&self, owner: Owner, late: bool) {
        let mut table = self.lock();
        let Some(known) = table.get_mut(&owner) else { return };
        known.releasing = known.releasing.saturating_sub(1);
        known.late = late;
        if known.releasing > 0 {
            return;
        }
        let parked = std::mem::take(&mut known.parked);
        let asks: Vec<(bool, Ask)> =
            parked.into_iter().map(|(handle, ask)| (known.may_ask(handle), ask)).collect();
        drop(table);
        asks.into_iter().for_each(|(may, ask)| ask(may));
    }

    /// The answer to one of its operations. True if it must let go now: nobody can ask it to later.
    #[must_use]
    pub(super) fn told(&self, owner: Owner, holds: Holds) -> bool {
        let mut table = self.lock();
        let Some(known) = table.get_mut(&owner) else { return false };
        known.asking = known.asking.saturating_sub(1);
        match holds {
            Holds::Perhaps => known.holds = true,
            Holds::Same => {}
            Holds::Nothing => known.holds &= known.mixed,
        }
        if known.asking > 0 {
            return false;
        }
        known.mixed = false;
        if !known.holds {
            table.remove(&owner);
            return false;
        }
        known.handles.is_empty() && !known.late
    }

    /// A handle is closed. Gives the owners that must let go now.
    pub(super) fn closed(&self, ino: Ino, handle: u64) -> Vec<Owner> {
        let mut table = self.lock();
        let mut gone = Vec::new();
        for (owner, known) in table.iter_mut().filter(|(owner, _)| owner.ino == ino) {
            let last = known.handles.remove(&handle) && known.handles.is_empty();
            if last && known.asking == 0 && !known.late {
                gone.push(*owner);
            }
        }
        gone
    }

    /// The replicas dropped all locks. Gives the handles through which some may have been held.
    pub(super) fn lost(&self) -> BTreeSet<u64> {
        let mut table = self.lock();
        let mut handles = BTreeSet::new();
        for known in table.values_mut().filter(|known| known.holds) {
            handles.append(&mut known.handles.clone());
            known.holds = false;
        }
        table.retain(|_, known| known.asking > 0);
        handles
    }
}

impl Known {
    /// Begins to ask through a handle, unless it has to let go first.
    fn may_ask(&mut self, handle: u64) -> bool {
        if !self.late {
            self.handles.insert(handle);
            self.begins();
        }
        !self.late
    }

    fn begins(&mut self) {
        self.mixed |= self.asking > 0;
        self.asking += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const OWNER: Owner = Owner { ino: Ino(7), number: 1 };

    /// Asks, and gives whether that is allowed, if it is known yet.
    fn ask(owners: &Owners, owner: Owner, handle: u64) -> mpsc::Receiver<bool> {
        let (sender, may) = mpsc::channel();
        owners.asks(owner, handle, Box::new(move |may| sender.send(may).expect("the test waits")));
        may
    }

    fn asks(owners: &Owners, owner: Owner, handle: u64) -> bool {
        ask(owners, owner, handle).try_recv().expect("nothing to wait for")
    }

    fn released(owners: &Owners, late: bool) -> bool {
        let holds = if late { Holds::Same } else { Holds::Nothing };
        // As the volume does it: what was parked begins before the release counts as over.
        owners.has_let_go(OWNER, late);
        owners.told(OWNER, holds)
    }

    #[test]
    fn an_owner_is_remembered_until_it_holds_nothing() {
        let owners = Owners::default();
        assert!(!owners.may_hold(OWNER));
        assert!(asks(&owners, OWNER, 3));
        assert!(owners.may_hold(OWNER), "it may, from the moment it asks");
        assert!(!owners.told(OWNER, Holds::Perhaps));
        assert!(asks(&owners, OWNER, 3));
        assert!(!owners.told(OWNER, Holds::Nothing));
        assert!(!owners.may_hold(OWNER));
        assert_eq!(owners.closed(OWNER.ino, 3), []);
    }

    #[test]
    fn of_answers_that_overlap_the_worst_is_believed() {
        let owners = Owners::default();
        assert!(asks(&owners, OWNER, 3) && asks(&owners, OWNER, 4));
        assert!(!owners.told(OWNER, Holds::Perhaps));
        assert!(!owners.told(OWNER, Holds::Nothing), "which came first, nobody knows");
        assert!(owners.may_hold(OWNER));
        assert_eq!(owners.closed(OWNER.ino, 3), []);
        assert_eq!(owners.closed(OWNER.ino, 4), [OWNER], "the last handle is closed");
        owners.lets_go(OWNER);
        assert!(!released(&owners, false));
        assert!(!owners.may_hold(OWNER));
    }

    #[test]
    fn what_is_granted_after_the_close_is_let_go() {
        let owners = Owners::default();
        assert!(asks(&owners, OWNER, 3));
        assert_eq!(owners.closed(OWNER.ino, 3), [], "there is an answer to come");
        assert!(owners.told(OWNER, Holds::Perhaps));
    }

    #[test]
    fn whoever_is_letting_go_asks_afterwards() {
        let owners = Owners::default();
        assert!(asks(&owners, OWNER, 3));
        assert!(!owners.told(OWNER, Holds::Perhaps));
        assert_eq!(owners.closed(OWNER.ino, 3), [OWNER]);
        owners.lets_go(OWNER);
        // Another file that the kernel gave the same number.
        let may = ask(&owners, OWNER, 4);
        assert!(may.try_recv().is_err(), "not yet");
        assert!(!released(&owners, false));
        assert_eq!(may.try_recv(), Ok(true));
        assert!(!owners.told(OWNER, Holds::Perhaps));
        assert!(owners.may_hold(OWNER));
        assert_eq!(owners.closed(OWNER.ino, 4), [OWNER]);
    }

    #[test]
    fn who_could_not_let_go_asks_for_nothing_before_it_has() {
        let owners = Owners::default();
        assert!(asks(&owners, OWNER, 3));
        assert!(!owners.told(OWNER, Holds::Perhaps));
        owners.lets_go(OWNER);
        assert!(!released(&owners, true));
        assert!(!asks(&owners, OWNER, 3));
        owners.lets_go(OWNER);
        assert!(!released(&owners, false));
        assert!(asks(&owners, OWNER, 3));
    }

    #[test]
    fn a_lost_session_tells_the_handles_that_had_locks() {
        let owners = Owners::default();
        let other = Owner { ino: Ino(8), number: 1 };
        assert!(asks(&owners, OWNER, 3) && asks(&owners, other, 5));
        assert!(!owners.told(OWNER, Holds::Perhaps));
        assert_eq!(owners.lost(), BTreeSet::from([3]), "the other had nothing yet");
        assert!(!owners.may_hold(OWNER) && owners.may_hold(other));
    }
}
