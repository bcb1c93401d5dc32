//! Operations out, answers in: the encoding and what an answer has to be.

use bftfs_fs::{
    Attributes, Call, Credentials, Entry, Ino, Lock, Operation, Outcome, Reply, Statistics,
    decode_outcome,
};
use bftfs_proto::client::Failure;
use bytes::Bytes;
use tracing::warn;

use super::Error;

/// The bytes to ask the cluster with.
pub(super) fn encode(credentials: Credentials, operation: Operation) -> Bytes {
    Call { credentials, operation }.encode()
}

/// What a call expects to be told. Anything else would be an error of a quorum of replicas.
pub(super) trait Answer: Sized + 'static {
    /// Takes it out of a reply, if it is that.
    fn of(reply: Reply) -> Option<Self>;
}

/// Contents of a file or the target of a link.
impl Answer for Bytes {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Data(bytes) | Reply::Target(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl Answer for Attributes {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Attributes(attributes) => Some(attributes),
            _ => None,
        }
    }
}

impl Answer for Statistics {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Statistics(statistics) => Some(statistics),
            _ => None,
        }
    }
}

impl Answer for () {
    fn of(reply: Reply) -> Option<Self> {
        matches!(reply, Reply::Done).then_some(())
    }
}

/// The entries of a part of a directory.
pub(super) struct Part {
    pub(super) entries: Vec<Entry>,
    pub(super) end: bool,
}

impl Answer for Part {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Entries { entries, end } => Some(Self { entries, end }),
            _ => None,
        }
    }
}

/// How far a call came that may take more operations than one.
pub(super) enum Progress {
    /// It is done, and this was found if something was sought.
    Ended(u64),
    /// It goes on from there.
    Reached(u64),
}

impl Answer for Progress {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Done => Some(Self::Ended(0)),
            Reply::Found(offset) => Some(Self::Ended(offset)),
            Reply::Reached(offset) => Some(Self::Reached(offset)),
            _ => None,
        }
    }
}

/// How many bytes were written.
pub(super) struct Written(pub(super) u32);

impl Answer for Written {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Written { count, .. } => Some(Self(count)),
            _ => None,
        }
    }
}

/// The file that lost its last name and was kept, if one did.
pub(super) struct Removed(pub(super) Option<Ino>);

impl Answer for Removed {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Removed { kept } => Some(Self(kept)),
            _ => None,
        }
    }
}

/// Files that lost their last name.
pub(super) struct Unlinked {
    /// What to say when those are kept that are open.
    pub(super) seen: u64,
    pub(super) inos: Vec<Ino>,
    /// To be asked again at once.
    pub(super) more: bool,
}

impl Answer for Unlinked {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Unlinked { seen, inos, more } => Some(Self { seen, inos, more }),
            _ => None,
        }
    }
}

/// Files without a name that are kept.
pub(super) struct Held(pub(super) Vec<Ino>);

impl Answer for Held {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Held { inos } => Some(Self(inos)),
            _ => None,
        }
    }
}

/// Whether a lock was granted.
pub(super) enum Granted {
    /// It was; whether its owner has any lock of the file now.
    Now { any: bool },
    /// Others are in the way.
    NotYet,
}

impl Answer for Granted {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Locked { any } => Some(Self::Now { any }),
            Reply::Waiting => Some(Self::NotYet),
            _ => None,
        }
    }
}

/// A wait for a lock ended: by the lock if it was granted before.
pub(super) struct Cancelled {
    pub(super) granted: bool,
}

impl Answer for Cancelled {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Done => Some(Self { granted: false }),
            Reply::Locked { .. } => Some(Self { granted: true }),
            _ => None,
        }
    }
}

/// The lock in the way.
impl Answer for Option<Lock> {
    fn of(reply: Reply) -> Option<Self> {
        match reply {
            Reply::Conflict(lock) => Some(lock),
            _ => None,
        }
    }
}

/// What a call is told by what the cluster said.
pub(super) fn decode<T: Answer>(result: Result<Bytes, Failure>) -> Result<T, Error> {
    let bytes = result.map_err(|failure| match failure {
        Failure::Deadline => Error::TIMEDOUT,
        Failure::Refused => Error::ACCESS,
        other => {
            warn!("a request failed: {other}");
            Error::IO
        }
    })?;
    let outcome: Outcome = decode_outcome(&bytes).map_err(|error| {
        warn!("a quorum of replicas answered with {error}: are they of another version?");
        Error::IO
    })?;
    let reply = outcome.map_err(|errno| Error::from_raw_os_error(errno.code()))?;
    T::of(reply).ok_or_else(|| {
        warn!("a quorum of replicas answered another question: are they of another version?");
        Error::IO
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bftfs_fs::{Errno, encode_outcome};

    #[test]
    fn an_answer_is_what_was_asked_for_or_an_error() {
        let said = |outcome: Outcome| Ok(encode_outcome(&outcome));
        assert_eq!(decode::<()>(said(Ok(Reply::Done))), Ok(()));
        assert_eq!(decode::<()>(said(Err(Errno::ENOTEMPTY))), Err(Error::NOTEMPTY));
        assert_eq!(decode::<Bytes>(said(Ok(Reply::Done))), Err(Error::IO));
        let data = Bytes::from_static(b"data");
        assert_eq!(decode::<Bytes>(said(Ok(Reply::Data(data.clone())))), Ok(data));
        assert_eq!(decode::<()>(Ok(Bytes::from_static(b"\xff\xff"))), Err(Error::IO));
        assert_eq!(decode::<()>(Err(Failure::Deadline)), Err(Error::TIMEDOUT));
        assert_eq!(decode::<()>(Err(Failure::Refused)), Err(Error::ACCESS));
        assert_eq!(decode::<()>(Err(Failure::SessionLost)), Err(Error::IO));
    }
}
