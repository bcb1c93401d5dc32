//! What a client may do: the rule of its certificate, applied before anything else.
//!
//! The client names the users that it acts for, and inodes by their numbers. Neither is believed
//! further than its rule goes: credentials are mapped or refused here, and whoever is confined to a
//! subtree names inodes within it or none. The top of its subtree is its root: it knows it by the
//! number of the root, and `..` there is the same directory.

use alloc::vec::Vec;

use bftfs_proto::types::{ClientId, SessionId};
use bftfs_state::Tree;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attributes::{Attributes, Ino, ROOT};
use crate::call::{Call, Credentials, GROUPS_MAX};
use crate::errno::Errno;
use crate::inode::View;
use crate::layout::{self, COOKIE_PARENT};
use crate::locks::LockKind;
use crate::operation::{Operation, Outcome, Reply, access};
use crate::registry;

/// Most ranges of a rule's users, and of its groups.
pub const RANGES_MAX: usize = 16;

/// Users or groups with adjacent numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

/// What a client may do. The default is everything but to administer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// It may change nothing.
    pub read_only: bool,
    /// The directory that is its root: it sees and changes nothing else.
    pub subtree: Option<Ino>,
    /// The users it may act as; any if there are none.
    pub uids: Vec<IdRange>,
    /// The groups it may act as; any if there are none.
    pub gids: Vec<IdRange>,
    /// The user and group that the superuser and its group act as.
    pub squash: Option<(u32, u32)>,
    /// It may say what clients may do. It cannot be confined to a subtree.
    pub admin: bool,
}

fn allows(ranges: &[IdRange], id: u32) -> bool {
    ranges.is_empty() || ranges.iter().any(|range| (range.first..=range.last).contains(&id))
}

impl Rule {
    /// EINVAL unless it makes sense.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        let sound = |ranges: &[IdRange]| {
            ranges.len() <= RANGES_MAX && ranges.iter().all(|range| range.first <= range.last)
        };
        let whole = self.subtree.is_none() || !self.admin;
        if sound(&self.uids) && sound(&self.gids) && whole { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Whom the client acts as when it says `who`. EPERM if it may not; supplementary groups that
    /// it may not have are left out.
    fn map(&self, who: Credentials) -> Result<Credentials, Errno> {
        let may_be = |gid: u32| match self.squash {
            Some((_, squashed)) if gid == squashed => true,
            Some(_) if gid == 0 => false,
            _ => allows(&self.gids, gid),
        };
        if let (Some((uid, gid)), 0) = (self.squash, who.uid) {
            return Ok(Credentials { uid, gid, groups: Vec::new() });
        }
        let gid = match self.squash {
            Some((_, squashed)) if who.gid == 0 => squashed,
            _ => who.gid,
        };
        let is_squashed = self.squash.is_some_and(|(uid, _)| uid == who.uid);
        if !(is_squashed || allows(&self.uids, who.uid)) || !may_be(gid) {
            return Err(Errno::EPERM);
        }
        let groups = who.groups.into_iter().filter(|&gid| may_be(gid)).collect();
        Ok(Credentials { uid: who.uid, gid, groups })
    }

    /// EPERM unless it is an administrator who administers, EROFS if it may change nothing.
    fn check_operation(&self, operation: &Operation) -> Result<(), Errno> {
        let writes = |mask: u8| mask & access::WRITE != 0;
        match *operation {
            Operation::SetClient { .. }
            | Operation::RevokeClient { .. }
            | Operation::ListClients { .. } => {
                if self.admin {
                    Ok(())
                } else {
                    Err(Errno::EPERM)
                }
            }
            _ if !self.read_only => Ok(()),
            Operation::Access { mask, .. } | Operation::Open { mask, .. } if writes(mask) => {
                Err(Errno::EROFS)
            }
            // A client gives back what it had before it was told to change nothing, and keeps
            // what it has open.
            Operation::Null
            | Operation::Attend { .. }
            | Operation::Hold { .. }
            | Operation::Release { .. }
            | Operation::CancelLock { .. }
            | Operation::ReleaseLocks { .. } => Ok(()),
            // Readers may keep writers out, not each other.
            Operation::SetLock { ref lock, .. } if lock.kind != LockKind::Write => Ok(()),
            ref other if other.is_read_only() => Ok(()),
            _ => Err(Errno::EROFS),
        }
    }
}

/// Where nothing of a session is looked at: there is none with this number.
const NO_SESSION: SessionId = SessionId(0);

/// A call as far as the client's rule allows it.
pub(crate) struct Admitted {
    pub(crate) call: Call,
    /// The top of the client's subtree.
    top: Option<Ino>,
}

/// Reads a call of a client and applies the client's rule: all but where the inodes lie that it
/// names.
pub(crate) fn admit(tree: &Tree, client: ClientId, bytes: &Bytes) -> Result<Admitted, Errno> {
    let rule = match registry::client(tree, client) {
        None => Rule::default(),
        Some(client) => client.rule.ok_or(Errno::EACCES)?,
    };
    let mut call = Call::decode(bytes).map_err(|_| Errno::EINVAL)?;
    if call.credentials.groups.len() > GROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    call.credentials = match call.operation.inos().next() {
        Some(_) => rule.map(call.credentials)?,
        None => Credentials::default(),
    };
    if rule.read_only {
        call.operation.look_only();
    }
    rule.check_operation(&call.operation)?;
    if let Some(top) = rule.subtree {
        call.operation.inos().filter(|ino| **ino == ROOT).for_each(|ino| *ino = top);
    }
    Ok(Admitted { call, top: rule.subtree })
}

impl Admitted {
    /// ESTALE if an inode that the call names is outside of the client's subtree.
    pub(crate) fn check_place(&mut self, tree: &Tree) -> Result<(), Errno> {
        self.check_place_but(tree, |_| false)
    }

    /// The same, but for what the session itself keeps: that had its last name within.
    pub(crate) fn check_place_in(&mut self, tree: &Tree, session: SessionId) -> Result<(), Errno> {
        self.check_place_but(tree, |ino| tree.get(&layout::orphan_key(session, ino)).is_some())
    }

    fn check_place_but(&mut self, tree: &Tree, is_kept: impl Fn(Ino) -> bool) -> Result<(), Errno> {
        let Some(top) = self.top else { return Ok(()) };
        let Call { credentials: who, operation } = &mut self.call;
        let view = View { tree, who, session: NO_SESSION };
        let is_in = |ino| view.is_within(ino, top) || is_kept(ino);
        if let Operation::Hold { inos } = operation {
            inos.retain(|&ino| is_in(ino));
        }
        let all = operation.inos().all(|&mut ino| is_in(ino));
        if all { Ok(()) } else { Err(Errno::ESTALE) }
    }

    /// An outcome as the client may see it.
    pub(crate) fn show(&self, tree: &Tree, mut outcome: Outcome) -> Outcome {
        let (Some(top), Ok(reply)) = (self.top, &mut outcome) else { return outcome };
        let hide = |ino: &mut Ino| {
            if *ino == top {
                *ino = ROOT;
            }
        };
        match reply {
            Reply::Attributes(attributes) | Reply::Written { attributes, .. } => {
                hide(&mut attributes.ino);
            }
            Reply::Entries { entries, .. } => {
                let of_top =
                    matches!(self.call.operation, Operation::Readdir { ino, .. } if ino == top);
                for entry in entries {
                    if of_top && entry.cookie == COOKIE_PARENT {
                        entry.ino = top;
                        let own = || attributes_of(tree, top);
                        entry.attributes = entry.attributes.and_then(|_| own());
                    }
                    hide(&mut entry.ino);
                    entry.attributes.iter_mut().for_each(|attributes| hide(&mut attributes.ino));
                }
            }
            Reply::Unlinked { inos, .. } => {
                let who = &Credentials::default();
                let view = View { tree, who, session: NO_SESSION };
                inos.retain(|&ino| view.is_within(ino, top));
            }
            _ => {}
        }
        outcome
    }
}

fn attributes_of(tree: &Tree, ino: Ino) -> Option<Attributes> {
    View { tree, who: &Credentials::default(), session: NO_SESSION }
        .inode(ino)
        .ok()
        .map(|inode| inode.attributes(ino))
}
