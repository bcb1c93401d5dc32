//! The file service: from the bytes of a call to the bytes of its outcome.

use alloc::vec::Vec;

use bftfs_proto::service::{Context, Nudge, Service};
use bftfs_proto::types::{ClientId, SessionId, Wall};
use bftfs_state::Tree;
use bytes::Bytes;

use crate::attributes::{FileType, Ino, ROOT, Time};
use crate::call::{Credentials, encode_outcome};
use crate::inode::{Change, View, mode_bits};
use crate::layout::{self, COOKIE_FIRST, Inode, REMOVED_BLOCKS_MAX, SUPERBLOCK_KEY, Superblock};
use crate::operation::{Operation, Outcome, Reply, Touch};
use crate::registry;
use crate::rules::admit;

/// The file service. It has no state but that in the tree; these are what a new one starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes that contents, targets and names may take together.
    pub capacity_bytes: u64,
    /// Inodes that may exist.
    pub capacity_inodes: u64,
    /// Owner of the root directory.
    pub root_uid: u32,
    /// Group of the root directory.
    pub root_gid: u32,
    /// Permission bits of the root directory.
    pub root_mode: u32,
    /// The clients that may say what clients may do.
    pub administrators: Vec<ClientId>,
}

impl FileSystem {
    /// A file system whose root directory belongs to the superuser, mode 0755.
    #[must_use]
    pub const fn new(capacity_bytes: u64, capacity_inodes: u64) -> Self {
        Self {
            capacity_bytes,
            capacity_inodes,
            root_uid: 0,
            root_gid: 0,
            root_mode: 0o755,
            administrators: Vec::new(),
        }
    }
}

impl Service for FileSystem {
    fn genesis(&self, state: &mut Tree) {
        let superblock = Superblock {
            capacity_bytes: self.capacity_bytes,
            capacity_inodes: self.capacity_inodes,
            used_bytes: 0,
            used_inodes: 1,
            next_number: ROOT.0 + 1,
        };
        layout::store(state, SUPERBLOCK_KEY, &superblock);
        let root = Inode {
            kind: FileType::Directory,
            mode: mode_bits(self.root_mode),
            uid: self.root_uid,
            gid: self.root_gid,
            nlink: 2,
            rdev: 0,
            size: 0,
            held: 0,
            fork: 0,
            parent: ROOT,
            next_cookie: COOKIE_FIRST,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: Time::default(),
        };
        layout::store(state, &layout::inode_key(ROOT), &root);
        registry::begin(state, &self.administrators);
    }

    fn execute(
        &self,
        state: &mut Tree,
        context: &Context,
        operation: &Bytes,
        nudges: &mut Vec<Nudge>,
    ) -> Bytes {
        let outcome = admit(state, context.client, operation).and_then(|mut admitted| {
            admitted.check_place_in(state, context.session)?;
            let (call, session) = (&admitted.call, context.session);
            let view = View { tree: state, who: &call.credentials, session };
            let outcome = look(view, &call.operation, context.time.into()).unwrap_or_else(|| {
                let mut change = begin(state, &call.credentials, session, context.time, nudges);
                let outcome = perform(&mut change, &call.operation);
                change.sweep();
                outcome
            });
            admitted.show(state, outcome)
        });
        encode_outcome(&outcome)
    }

    fn query(&self, state: &Tree, context: &Context, operation: &Bytes) -> Option<Bytes> {
        let outcome = match admit(state, context.client, operation) {
            Ok(mut admitted) => {
                // Nobody vouches for the session here: what it may keep is told when it is ordered.
                let placed = admitted.check_place(state);
                let reads = admitted.call.operation.is_read_only();
                if placed.is_err()
                    && (!reads || admitted.check_place_in(state, context.session).is_ok())
                {
                    return None;
                }
                let looked = match placed {
                    Ok(()) => {
                        let (call, session) = (&admitted.call, context.session);
                        let view = View { tree: state, who: &call.credentials, session };
                        look(view, &call.operation, context.time.into())?
                    }
                    Err(errno) => Err(errno),
                };
                admitted.show(state, looked)
            }
            Err(errno) => Err(errno),
        };
        Some(encode_outcome(&outcome))
    }

    fn session_closed(
        &self,
        state: &mut Tree,
        session: SessionId,
        time: Wall,
        nudges: &mut Vec<Nudge>,
    ) {
        let nobody = Credentials::default();
        let mut change = begin(state, &nobody, session, time, nudges);
        change.close_session();
        change.sweep();
    }
}

impl FileSystem {
    /// Begins a new cluster with the file system of another. What sessions held there nobody holds
    /// here, where others have their numbers.
    pub fn begin_anew(&self, state: &mut Tree, time: Wall) {
        for session in layout::sessions(state) {
            self.session_closed(state, session, time, &mut Vec::new());
        }
    }
}

fn begin<'a>(
    tree: &'a mut Tree,
    who: &'a Credentials,
    session: SessionId,
    time: Wall,
    nudges: &'a mut Vec<Nudge>,
) -> Change<'a> {
    Change { tree, who, now: time.into(), session, removals: REMOVED_BLOCKS_MAX, nudges }
}

/// What an operation gives that changes nothing as things are; `None` if it would.
fn look(view: View<'_>, operation: &Operation, now: Time) -> Option<Outcome> {
    let moves = match operation.touch() {
        Touch::Never => false,
        Touch::Always => true,
        Touch::Relative => accessed(view, operation, now).is_some(),
    };
    if moves { None } else { answer(view, operation) }
}

/// The file whose time of last access moves if the operation is not refused.
fn accessed(view: View<'_>, operation: &Operation, now: Time) -> Option<Ino> {
    let (Operation::Read { ino, length: 1.., .. }
    | Operation::Readlink { ino, .. }
    | Operation::Readdir { ino, .. }) = *operation
    else {
        return None;
    };
    view.is_due(ino, operation.touch(), now).then_some(ino)
}

/// What an operation gives that only looks, atime aside; `None` if it is another.
fn answer(view: View<'_>, operation: &Operation) -> Option<Outcome> {
    Some(match *operation {
        Operation::Lookup { parent, ref name } => view.lookup(parent, name),
        Operation::Getattr { ino } => view.getattr(ino),
        Operation::Access { ino, mask } => view.access(ino, mask),
        Operation::Readlink { ino, .. } => view.readlink(ino),
        Operation::Read { ino, offset, length, .. } => view.read(ino, offset, length),
        Operation::Readdir { ino, cookie, bytes_max, plus, .. } => {
            view.readdir(ino, cookie, bytes_max, plus)
        }
        Operation::Statfs => view.statfs(),
        Operation::Seek { ino, offset, sought } => view.seek(ino, offset, sought),
        Operation::ListClients { after } => view.list_clients(after),
        Operation::Open { ino, mask, truncate: false } => view.open(ino, mask, false),
        Operation::Getxattr { ino, ref name } => view.getxattr(ino, name),
        Operation::Listxattr { ino } => view.listxattr(ino),
        Operation::GetLock { ino, ref lock } => view.get_lock(ino, lock),
        _ => return None,
    })
}

fn perform(change: &mut Change<'_>, operation: &Operation) -> Outcome {
    match *operation {
        Operation::Null => Ok(Reply::Done),
        Operation::Open { ino, mask, truncate } => change.open(ino, mask, truncate),
        Operation::Setattr { ino, ref set, open } => change.setattr(ino, set, open),
        Operation::Create { parent, ref name, mode, exclusive, mask, truncate } => {
            change.create(parent, name, mode, exclusive, mask, truncate)
        }
        Operation::Mknod { parent, ref name, kind, mode, rdev } => {
            change.mknod(parent, name, kind, mode, rdev)
        }
        Operation::Mkdir { parent, ref name, mode } => change.mkdir(parent, name, mode),
        Operation::Symlink { parent, ref name, ref target } => change.symlink(parent, name, target),
        Operation::Link { ino, parent, ref name } => change.link(ino, parent, name),
        Operation::Unlink { parent, ref name, keep } => change.unlink(parent, name, keep),
        Operation::Rmdir { parent, ref name, keep } => change.rmdir(parent, name, keep),
        Operation::Rename { parent, ref name, new_parent, ref new_name, mode, keep } => {
            change.rename((parent, name), (new_parent, new_name), mode, keep)
        }
        Operation::Write { ino, offset, append, ref data } => {
            change.write(ino, offset, append, data)
        }
        Operation::Release { ref inos } => change.release(inos),
        Operation::Attend { seen } => change.attend(seen),
        Operation::Hold { ref inos } => change.hold(inos),
        Operation::SetClient { client, ref record } => change.set_client(client, record),
        Operation::RevokeClient { client } => change.revoke_client(client),
        Operation::SetLock { ino, ref lock, wait } => change.set_lock(ino, lock, wait),
        Operation::CancelLock { ino, ref lock } => change.cancel_lock(ino, lock),
        Operation::ReleaseLocks { ino, owner } => change.release_locks(ino, owner),
        Operation::Setxattr { ino, ref name, ref value, mode } => {
            change.setxattr(ino, name, value, mode)
        }
        Operation::Removexattr { ino, ref name } => change.removexattr(ino, name),
        Operation::Allocate { ino, offset, length, how } => {
            change.fallocate(ino, offset, length, how)
        }
        Operation::Copy { ino, offset, target, target_offset, length, touch } => {
            change.copy((ino, offset), (target, target_offset), length, touch)
        }
        Operation::Lookup { .. }
        | Operation::Seek { .. }
        | Operation::Read { .. }
        | Operation::Readlink { .. }
        | Operation::Readdir { .. }
        | Operation::Getattr { .. }
        | Operation::Access { .. }
        | Operation::ListClients { .. }
        | Operation::GetLock { .. }
        | Operation::Getxattr { .. }
        | Operation::Listxattr { .. }
        | Operation::Statfs => look_and_touch(change, operation),
    }
}

/// Reads and moves the time of last access.
fn look_and_touch(change: &mut Change<'_>, operation: &Operation) -> Outcome {
    let reply = answer(change.view(), operation).expect("it only reads")?;
    if let Some(ino) = accessed(change.view(), operation, change.now) {
        change.touch(ino);
    }
    Ok(reply)
}
