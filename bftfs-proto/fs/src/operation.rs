//! What clients ask and what they are told: file-system calls as data, and their encoding.
//!
//! ```text
//! call     postcard(Call), then the raw bytes of Operation::Write
//! outcome  postcard(Outcome), then the raw bytes of Reply::Data
//! ```
//! Contents stand raw behind the rest so that they are neither copied nor scanned when decoded.

use alloc::vec::Vec;

use bftfs_proto::types::ClientId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attributes::{Attributes, FileType, Ino, SetTime, Statistics};
use crate::errno::Errno;
use crate::registry::Client;

/// Most bytes of one [`Operation::Read`]; asking for more gets this many.
pub const READ_BYTES_MAX: u32 = 1 << 20;
/// Most bytes of one [`Operation::Write`]; more is refused.
pub const WRITE_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one [`Operation::Readdir`]; asking for more gets this many.
pub const READDIR_BYTES_MAX: u32 = 1 << 20;
/// Most supplementary groups of a caller; a call with more is refused.
pub const GROUPS_MAX: usize = 1024;
/// Most inodes in one [`Operation::Release`]; more are refused.
pub const RELEASES_MAX: usize = 1024;

/// Bits of an access mask, as of access(2).
pub mod access {
    /// May it be executed, or a directory searched?
    pub const EXECUTE: u8 = 1;
    /// May it be written?
    pub const WRITE: u8 = 2;
    /// May it be read?
    pub const READ: u8 = 4;
}

/// On whose behalf an operation is done.
///
/// The client's certificate vouches for these as far as its [`Rule`](crate::Rule) goes: within it, a
/// mount is trusted with the users of its machine, as with NFS's `AUTH_SYS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user; 0 is the superuser.
    pub uid: u32,
    /// The group, which new files get.
    pub gid: u32,
    /// Supplementary groups, at most [`GROUPS_MAX`].
    pub groups: Vec<u32>,
}

/// An operation and on whose behalf it is done: the body of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who asks.
    pub credentials: Credentials,
    /// What for.
    pub operation: Operation,
}

/// A file-system call. What each returns and why it may be refused is in POSIX and
/// `docs/semantics.md`; any can be refused with [`Errno::EINVAL`] and [`Errno::ESTALE`].
///
/// `touch` moves the time of last access, which makes an operation one that changes something.
/// In `mode`, bits above `0o7777` are ignored; the caller's umask is applied already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Nothing, but in order. Gives [`Reply::Done`].
    Null,
    /// What a name in a directory stands for. Gives [`Reply::Attributes`].
    Lookup {
        /// The directory.
        parent: Ino,
        /// The name; neither `.` nor `..`.
        name: Bytes,
    },
    /// Gives [`Reply::Attributes`].
    Getattr {
        /// Of which file.
        ino: Ino,
    },
    /// Whether the caller may do what the bits of [`access`] say. Gives [`Reply::Done`].
    Access {
        /// To which file.
        ino: Ino,
        /// Bits of [`access`]; 0 asks whether it exists.
        mask: u8,
    },
    /// Gives [`Reply::Target`].
    Readlink {
        /// Which symbolic link.
        ino: Ino,
        /// Whether its atime moves.
        touch: bool,
    },
    /// Reads an open file. Gives [`Reply::Data`], short only at the end of the file.
    Read {
        /// Which file.
        ino: Ino,
        /// From where on.
        offset: u64,
        /// How many bytes, see [`READ_BYTES_MAX`].
        length: u32,
        /// Whether its atime moves, if `length` is not 0.
        touch: bool,
    },
    /// Lists a directory. Gives [`Reply::Entries`].
    Readdir {
        /// Which directory.
        ino: Ino,
        /// The cookie of the last entry that is known already, or 0.
        cookie: u64,
        /// How many bytes, counted as FUSE lays entries out; see [`READDIR_BYTES_MAX`].
        bytes_max: u32,
        /// Whether attributes are wanted.
        plus: bool,
        /// Whether its atime moves.
        touch: bool,
    },
    /// Gives [`Reply::Statistics`].
    Statfs,
    /// Checks that a file may be opened so. Gives [`Reply::Attributes`].
    ///
    /// Nothing is kept of an open file: see `keep` in [`Self::Unlink`].
    Open {
        /// Which file or directory.
        ino: Ino,
        /// Bits of [`access`].
        mask: u8,
        /// Whether it is cut to nothing (`O_TRUNC`), which needs the right to write.
        truncate: bool,
    },
    /// Changes attributes, all or none. Gives [`Reply::Attributes`].
    Setattr {
        /// Of which file.
        ino: Ino,
        /// What to change.
        set: SetAttributes,
        /// Whether the file is open for writing, as for ftruncate(2): then its owner may change
        /// the size whatever the mode says.
        open: bool,
    },
    /// Opens a regular file that is made if the name is free. Gives [`Reply::Attributes`].
    ///
    /// An existing file is opened as by [`Self::Open`]. If the name stands for something that is
    /// neither a regular file nor a directory the answer is [`Errno::ESTALE`]: look it up again.
    Create {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// Permission bits of a new file.
        mode: u32,
        /// Whether an existing file is an error (`O_EXCL`).
        exclusive: bool,
        /// Bits of [`access`] that an existing file must grant.
        mask: u8,
        /// Whether an existing file is cut to nothing (`O_TRUNC`).
        truncate: bool,
    },
    /// Makes anything but a directory or a symbolic link. Gives [`Reply::Attributes`].
    Mknod {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// What to make.
        kind: FileType,
        /// Permission bits.
        mode: u32,
        /// Device number, if it is a device.
        rdev: u32,
    },
    /// Makes a directory. Gives [`Reply::Attributes`].
    Mkdir {
        /// The directory to make it in.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a symbolic link. Gives [`Reply::Attributes`].
    Symlink {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// What it points to: 1 to 4095 bytes without NUL.
        target: Bytes,
    },
    /// Gives a file one more name. Gives [`Reply::Attributes`].
    Link {
        /// The file, not a directory.
        ino: Ino,
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
    },
    /// Removes the name of anything but a directory. Gives [`Reply::Removed`].
    Unlink {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// Whether the file, if this was its last name, is kept until the session releases it
        /// or ends: for files that are still open.
        keep: bool,
    },
    /// Removes an empty directory. Gives [`Reply::Removed`].
    Rmdir {
        /// The directory that it is in.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// As in [`Self::Unlink`].
        keep: bool,
    },
    /// Moves a name. Gives [`Reply::Removed`].
    Rename {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Bytes,
        /// The directory to move to.
        new_parent: Ino,
        /// The name there.
        new_name: Bytes,
        /// What if that name exists.
        mode: RenameMode,
        /// As in [`Self::Unlink`], for what is replaced.
        keep: bool,
    },
    /// Writes an open file, all or nothing. Gives [`Reply::Written`].
    Write {
        /// Which file.
        ino: Ino,
        /// From where on.
        offset: u64,
        /// Whether to write at the end of the file instead (`O_APPEND`).
        append: bool,
        /// At most [`WRITE_BYTES_MAX`] bytes.
        #[serde(skip)]
        data: Bytes,
    },
    /// Lets go of unlinked files that this session kept. Others are ignored. Gives
    /// [`Reply::Done`].
    Release {
        /// At most [`RELEASES_MAX`].
        inos: Vec<Ino>,
    },
    /// Says what a client may do, and which key it has; for administrators. Gives
    /// [`Reply::Done`], or [`Errno::EBUSY`] while it cannot yet be told where files lie: then it is
    /// to be asked again until it can.
    SetClient {
        /// Which client. It need not be known yet.
        client: ClientId,
        /// What becomes known of it.
        record: Client,
    },
    /// Takes all access from a client, at once; for administrators. Gives [`Reply::Done`].
    RevokeClient {
        /// Which client.
        client: ClientId,
    },
    /// The clients that administrators spoke of; for administrators. Gives [`Reply::Clients`].
    ListClients {
        /// The last client that is known already.
        after: Option<ClientId>,
    },
}

/// What a rename does about a name that exists (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// It replaces it.
    Replace,
    /// It fails.
    NoReplace,
    /// The two change places; both must exist.
    Exchange,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size of a regular file, in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change.
    pub mtime: Option<SetTime>,
}

/// What became of a call.
pub type Outcome = Result<Reply, Errno>;

/// What a call that was not refused gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// The attributes that the file has now.
    Attributes(Attributes),
    /// What was read.
    Data(#[serde(skip)] Bytes),
    /// Where a symbolic link points to.
    Target(Bytes),
    /// What is in a directory.
    Entries {
        /// In ascending order of their cookies.
        entries: Vec<Entry>,
        /// Whether there are no more.
        end: bool,
    },
    /// How full the file system is.
    Statistics(Statistics),
    /// What was written.
    Written {
        /// How many bytes: all.
        count: u32,
        /// The attributes that the file has now.
        attributes: Attributes,
    },
    /// A name was removed or moved.
    Removed {
        /// The file that has no name left and is kept for this session; release it.
        kept: Option<Ino>,
    },
    /// Clients and what they may do.
    Clients {
        /// In ascending order of their ids, at most [`crate::registry::CLIENTS_PAGE`].
        clients: Vec<(ClientId, Client)>,
        /// Whether there are no more.
        end: bool,
    },
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place: later ones are greater. 1 is `.`, 2 is `..`; a cookie is never used again.
    pub cookie: u64,
    /// Which file.
    pub ino: Ino,
    /// What kind of file.
    pub kind: FileType,
    /// The name.
    pub name: Bytes,
    /// The file's attributes, if they were asked for.
    pub attributes: Option<Attributes>,
}

/// Bytes that are no encoding of what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed encoding of a file operation")]
pub struct Malformed;

impl Operation {
    /// Whether the operation changes nothing, so that it need not be ordered.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        match self {
            Self::Lookup { .. } | Self::Getattr { .. } | Self::Access { .. } | Self::Statfs => true,
            Self::ListClients { .. } => true,
            Self::Readlink { touch, .. }
            | Self::Read { touch, .. }
            | Self::Readdir { touch, .. } => !*touch,
            Self::Open { truncate, .. } => !*truncate,
            _ => false,
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
            Self::SetClient { .. } => "set client",
            Self::RevokeClient { .. } => "revoke client",
            Self::ListClients { .. } => "list clients",
        }
    }

    /// The inodes that it names, which a rule may forbid. What a session keeps is its own: those
    /// that a release names are not among them.
    pub(crate) fn inos(&mut self) -> Vec<&mut Ino> {
        match self {
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
            | Self::Write { ino, .. } => [ino].into(),
            Self::Link { ino, parent, .. } => [ino, parent].into(),
            Self::Rename { parent, new_parent, .. } => [parent, new_parent].into(),
            Self::Null
            | Self::Statfs
            | Self::Release { .. }
            | Self::SetClient { .. }
            | Self::RevokeClient { .. }
            | Self::ListClients { .. } => Vec::new(),
        }
    }

    /// Leaves the time of last access alone.
    pub(crate) fn look_only(&mut self) {
        if let Self::Readlink { touch, .. }
        | Self::Read { touch, .. }
        | Self::Readdir { touch, .. } = self
        {
            *touch = false;
        }
    }
}

impl Call {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match &self.operation {
            Operation::Write { data, .. } => encode_before(self, data),
            _ => encode_before(self, &[]),
        }
    }

    /// Reads a call that came from elsewhere; written data is shared with `bytes`.
    ///
    /// # Errors
    /// If the bytes are not the whole encoding of a call.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let (mut call, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|_| Malformed)?;
        match &mut call.operation {
            Operation::Write { data, .. } => *data = bytes.slice_ref(rest),
            _ if rest.is_empty() => {}
            _ => return Err(Malformed),
        }
        Ok(call)
    }
}

/// The bytes of an outcome to send.
#[must_use]
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    match outcome {
        Ok(Reply::Data(data)) => encode_before(outcome, data),
        _ => encode_before(outcome, &[]),
    }
}

/// Reads an outcome that came from elsewhere; read data is shared with `bytes`.
///
/// # Errors
/// If the bytes are not the whole encoding of an outcome.
pub fn decode_outcome(bytes: &Bytes) -> Result<Outcome, Malformed> {
    let (mut outcome, rest): (Outcome, _) =
        postcard::take_from_bytes(bytes).map_err(|_| Malformed)?;
    match &mut outcome {
        Ok(Reply::Data(data)) => *data = bytes.slice_ref(rest),
        _ if rest.is_empty() => {}
        _ => return Err(Malformed),
    }
    Ok(outcome)
}

fn encode_before<T: Serialize>(value: &T, contents: &[u8]) -> Bytes {
    let bytes = Vec::with_capacity(192 + contents.len());
    let mut bytes = postcard::to_extend(value, bytes).expect("our own types serialise to memory");
    bytes.extend_from_slice(contents);
    bytes.into()
}
