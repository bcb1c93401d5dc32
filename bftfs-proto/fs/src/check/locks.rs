//! The rules of locks: every lock is of a file, in order, and counted for its session.

use alloc::collections::BTreeMap;
use alloc::format;

use bftfs_proto::types::SessionId;

use super::Tables;
use crate::attributes::FileType;
use crate::layout::FILE_BYTES_MAX;
use crate::locks::{Claim, FileLocks, SessionLocks};

impl FileLocks {
    /// Whether each is where it can be, in order, and no two of one owner overlap.
    fn is_sound(&self) -> bool {
        let bounded = |range: (u64, u64)| range.0 <= range.1 && range.1 <= FILE_BYTES_MAX;
        let apart = |(at, claim): (usize, &Claim)| {
            let mut later = self.held[at + 1..].iter();
            later.all(|other| claim.owner != other.owner || claim.end < other.start)
        };
        self.held.iter().chain(&self.waiting).all(|claim| bounded((claim.start, claim.end)))
            && self.held.is_sorted()
            && self.held.iter().enumerate().all(apart)
    }
}

impl Tables {
    pub(super) fn check_locks(&mut self) {
        let mut sessions: BTreeMap<SessionId, SessionLocks> = BTreeMap::new();
        for (ino, locks) in self.locks.clone() {
            let kind = self.inodes.get(&ino).map(|inode| inode.kind);
            self.require(kind == Some(FileType::Regular), || {
                format!("inode {ino} has locks but is no file")
            });
            let shares = locks.shares();
            self.require(locks.is_sound() && !shares.is_empty(), || {
                format!("the locks of inode {ino} are malformed")
            });
            for (session, share) in shares {
                let locks = sessions.entry(session).or_default();
                locks.claims += share.claims;
                locks.waits.extend(share.waits.iter().map(|owner| (*owner, ino)));
                let known = self.locked.remove(&(session, ino));
                self.require(known, || {
                    format!("session {session} does not know of its locks on inode {ino}")
                });
            }
        }
        let counted = core::mem::take(&mut self.session_locks);
        self.require(counted == sessions, || {
            format!("sessions count their locks as {counted:?} but they are {sessions:?}")
        });
        let lost = self.locked.len();
        self.require(lost == 0, || format!("{lost} files are said to be locked but are not"));
    }
}
