//! What is to be known of operations of every kind.

use super::{Operation, Touch};
use crate::attributes::Ino;

impl Operation {
    /// Whether the operation changes nothing whatever the state is, so that it need not be
    /// ordered. With [`Touch::Relative`] only the state tells.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        match self {
            Self::Lookup { .. }
            | Self::Getattr { .. }
            | Self::Access { .. }
            | Self::Statfs
            | Self::Seek { .. }
            | Self::GetLock { .. }
            | Self::ListClients { .. } => true,
            Self::Readlink { touch, .. }
            | Self::Read { touch, .. }
            | Self::Readdir { touch, .. } => matches!(touch, Touch::Never),
            Self::Open { truncate, .. } => !*truncate,
            Self::Getxattr { .. } | Self::Listxattr { .. } => true,
            _ => false,
        }
    }

    /// What it does about the time of last access.
    #[must_use]
    pub const fn touch(&self) -> Touch {
        match self {
            Self::Readlink { touch, .. }
            | Self::Read { touch, .. }
            | Self::Readdir { touch, .. } => *touch,
            _ => Touch::Never,
        }
    }

    /// A word for it, for counters and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Lookup { .. } => "lookup",
            Self::Getattr { .. } => "getattr",
            Self::Access { .. } => "access",
            Self::Readlink { .. } => "readlink",
            Self::Read { .. } => "read",
            Self::Readdir { .. } => "readdir",
            Self::Statfs => "statfs",
            Self::Open { .. } => "open",
            Self::Setattr { .. } => "setattr",
            Self::Create { .. } => "create",
            Self::Mknod { .. } => "mknod",
            Self::Mkdir { .. } => "mkdir",
            Self::Symlink { .. } => "symlink",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::Rmdir { .. } => "rmdir",
            Self::Rename { .. } => "rename",
            Self::Write { .. } => "write",
            Self::Release { .. } => "release",
            Self::Setxattr { .. } => "setxattr",
            Self::Getxattr { .. } => "getxattr",
            Self::Listxattr { .. } => "listxattr",
            Self::Removexattr { .. } => "removexattr",
            Self::Seek { .. } => "seek",
            Self::Allocate { .. } => "allocate",
            Self::Copy { .. } => "copy",
            Self::SetLock { .. } => "set-lock",
            Self::GetLock { .. } => "get-lock",
            Self::CancelLock { .. } => "cancel-lock",
            Self::ReleaseLocks { .. } => "release-locks",
            Self::SetClient { .. } => "set client",
            Self::RevokeClient { .. } => "revoke client",
            Self::ListClients { .. } => "list clients",
            Self::Attend { .. } => "attend",
            Self::Hold { .. } => "hold",
        }
    }

    /// The inodes that it names, which a rule may forbid. What a session keeps or has locked
    /// is its own: what lets go of that names none. Whatever names none asks for nobody's rights.
    pub(crate) fn inos(&mut self) -> impl Iterator<Item = &mut Ino> {
        let (first, second) = match self {
            Self::Lookup { parent: ino, .. }
            | Self::Getattr { ino }
            | Self::Access { ino, .. }
            | Self::Readlink { ino, .. }
            | Self::Read { ino, .. }
            | Self::Readdir { ino, .. }
            | Self::Open { ino, .. }
            | Self::Setattr { ino, .. }
            | Self::Create { parent: ino, .. }
            | Self::Mknod { parent: ino, .. }
            | Self::Mkdir { parent: ino, .. }
            | Self::Symlink { parent: ino, .. }
            | Self::Unlink { parent: ino, .. }
            | Self::Rmdir { parent: ino, .. }
            | Self::Write { ino, .. }
            | Self::Setxattr { ino, .. }
            | Self::Getxattr { ino, .. }
            | Self::Listxattr { ino }
            | Self::Removexattr { ino, .. }
            | Self::Seek { ino, .. }
            | Self::Allocate { ino, .. }
            | Self::SetLock { ino, .. }
            | Self::GetLock { ino, .. } => (Some(ino), None),
            Self::Copy { ino, target, .. } => (Some(ino), Some(target)),
            Self::Link { ino, parent, .. } => (Some(ino), Some(parent)),
            Self::Rename { parent, new_parent, .. } => (Some(parent), Some(new_parent)),
            Self::Null
            | Self::Statfs
            | Self::Release { .. }
            | Self::CancelLock { .. }
            | Self::ReleaseLocks { .. }
            | Self::SetClient { .. }
            | Self::RevokeClient { .. }
            | Self::ListClients { .. }
            | Self::Attend { .. }
            | Self::Hold { .. } => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// Leaves the time of last access alone.
    pub(crate) fn look_only(&mut self) {
        if let Self::Readlink { touch, .. }
        | Self::Read { touch, .. }
        | Self::Readdir { touch, .. } = self
        {
            *touch = Touch::Never;
        }
    }
}
