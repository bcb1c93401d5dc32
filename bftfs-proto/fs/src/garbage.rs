//! What outlives its name: files kept open, and blocks too many to remove at once.

use alloc::vec::Vec;

use bftfs_proto::types::SessionId;

use crate::attributes::Ino;
use crate::errno::Errno;
use crate::inode::Change;
use crate::layout::{self, Garbage, table};
use crate::operation::{Outcome, RELEASES_MAX, Reply};

impl Change<'_> {
    /// Lets go of files that this session kept.
    pub(crate) fn release(&mut self, inos: &[Ino]) -> Outcome {
        if inos.len() > RELEASES_MAX {
            return Err(Errno::EINVAL);
        }
        for &ino in inos {
            self.free_orphan(self.session, ino);
        }
        Ok(Reply::Done)
    }

    /// Lets go of all files that this session kept, and of its locks, now or with the operations
    /// that follow. Locks go first: others wait for them.
    pub(crate) fn close_session(&mut self) {
        self.stop_attending();
        self.sweep_locks(self.session);
        let orphans = Garbage::Session(self.session);
        let kept = self.tree.prefix(&orphans.prefix()).next().is_some();
        if kept || self.locked_by(self.session).is_some() {
            self.tree.insert(&orphans.key(), Vec::new());
        }
    }

    fn free_orphan(&mut self, session: SessionId, ino: Ino) {
        if self.tree.remove(&layout::orphan_key(session, ino)) {
            self.keep_less(ino);
        }
    }

    /// Removes what nobody has any more, now if it is little.
    pub(crate) fn discard(&mut self, garbage: Garbage) {
        if self.tree.prefix(&garbage.prefix()).nth(self.removals).is_some() {
            self.tree.insert(&garbage.key(), Vec::new());
        } else {
            self.remove_below(&garbage.prefix());
        }
    }

    /// Removes as many keys that start with `prefix` as this operation may.
    fn remove_below(&mut self, prefix: &[u8]) {
        let keys = self.tree.prefix(prefix).take(self.removals);
        let keys: Vec<Vec<u8>> = keys.map(|(key, _)| key.into()).collect();
        self.removals -= keys.len();
        for key in keys {
            self.tree.remove(&key);
        }
    }

    /// Removes garbage and what leaves limbo, and builds the index, as far as this operation may.
    /// Every operation ends with it.
    pub(crate) fn sweep(&mut self) {
        self.build_index();
        self.sweep_limbo();
        while self.removals > 0
            && let Some((key, _)) = self.tree.prefix(&[table::GARBAGE]).next()
        {
            let garbage = Garbage::from_key(key).expect("garbage has a kind and a number");
            match garbage {
                Garbage::Fork(_) | Garbage::Xattrs(_) => self.remove_below(&garbage.prefix()),
                Garbage::Session(session) => self.sweep_session(session),
            }
            if self.removals > 0 {
                self.tree.remove(&garbage.key());
            }
        }
    }

    fn sweep_session(&mut self, session: SessionId) {
        self.sweep_locks(session);
        let orphans = layout::orphans_key(session);
        while self.removals > 0
            && let Some((key, _)) = self.tree.prefix(&orphans).next()
        {
            let (_, ino) = layout::split_two(key).expect("an orphan's key has two numbers");
            self.removals -= 1;
            self.free_orphan(session, Ino(ino));
        }
    }
}
