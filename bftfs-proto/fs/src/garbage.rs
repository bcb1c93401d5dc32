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

    /// Lets go of all files that this session kept, now or with the operations that follow.
    pub(crate) fn close_session(&mut self) {
        let orphans = layout::orphans_key(self.session);
        if self.tree.prefix(&orphans).next().is_some() {
            self.tree.insert(&Garbage::Session(self.session).key(), Vec::new());
        }
    }

    fn free_orphan(&mut self, session: SessionId, ino: Ino) {
        if self.tree.remove(&layout::orphan_key(session, ino)) {
            let inode = self.view().inode(ino).expect("an orphan is an inode");
            self.free(ino, &inode);
        }
    }

    /// Removes the blocks of a fork that no file has any more, now if they are few.
    pub(crate) fn discard(&mut self, fork: u64) {
        if self.tree.prefix(&layout::fork_key(fork)).nth(self.removals).is_some() {
            self.tree.insert(&Garbage::Fork(fork).key(), Vec::new());
        } else {
            self.remove_blocks(fork);
        }
    }

    /// Removes as many blocks of a fork as this operation may.
    fn remove_blocks(&mut self, fork: u64) {
        let keys = self.tree.prefix(&layout::fork_key(fork)).take(self.removals);
        let keys: Vec<Vec<u8>> = keys.map(|(key, _)| key.into()).collect();
        self.removals -= keys.len();
        for key in keys {
            self.tree.remove(&key);
        }
    }

    /// Removes garbage, and builds the index, as far as this operation may. Every operation ends
    /// with it.
    pub(crate) fn sweep(&mut self) {
        self.build_index();
        while self.removals > 0
            && let Some((key, _)) = self.tree.prefix(&[table::GARBAGE]).next()
        {
            let garbage = Garbage::from_key(key).expect("the table is of garbage");
            match garbage {
                Garbage::Fork(fork) => self.remove_blocks(fork),
                Garbage::Session(session) => self.sweep_session(session),
            }
            if self.removals > 0 {
                self.tree.remove(&garbage.key());
            }
        }
    }

    fn sweep_session(&mut self, session: SessionId) {
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
