//! What clients are told: the outcomes of calls as data.

use alloc::vec::Vec;

use bftfs_proto::types::ClientId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attributes::{Attributes, FileType, Ino, Statistics};
use crate::errno::Errno;
use crate::locks::Lock;
use crate::registry::Client;

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
        /// How many bytes: all, but for [`crate::Operation::Copy`].
        count: u32,
        /// The attributes that the file has now.
        attributes: Attributes,
    },
    /// A name was removed or moved.
    Removed {
        /// The file that has no name left and is kept for this session; release it.
        kept: Option<Ino>,
    },
    /// Where what was sought begins.
    Found(u64),
    /// How far one operation came: ask again from there.
    Reached(u64),
    /// The lock is held, or given up.
    Locked {
        /// Whether its owner holds any lock of the file now.
        any: bool,
    },
    /// Others are in the way of a lock; its owner waits.
    Waiting,
    /// The first lock in the way, if there is one. Owner and process are 0 if it is of another
    /// session.
    Conflict(Option<Lock>),
    /// Clients and what they may do.
    Clients {
        /// In ascending order of their ids, at most [`crate::registry::CLIENTS_PAGE`].
        clients: Vec<(ClientId, Client)>,
        /// Whether there are no more.
        end: bool,
    },
    /// Files that lost their last name and that sessions may have open.
    Unlinked {
        /// The number to say next time, when those that the session has open are held.
        seen: u64,
        /// In the order in which they lost it.
        inos: Vec<Ino>,
        /// Whether there is more to hear or to do: ask again at once.
        more: bool,
    },
    /// Which of the files are kept for this session now.
    Held {
        /// In the order in which they were asked for.
        inos: Vec<Ino>,
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
