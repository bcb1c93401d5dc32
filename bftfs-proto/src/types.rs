//! The nouns of the protocol, each a type of its own so that none is taken for another.

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A replica's index in the cluster, `0..n`.
    ReplicaId(u32), "R"
);
number!(
    /// A client's number in the cluster file. One certificate, one number; many mounts may share it.
    ClientId(u32), "C"
);
number!(
    /// A view: the reign of one primary, `v mod n`.
    View(u64), "v"
);
number!(
    /// A sequence number: the place of a batch in the total order. The first batch is 1.
    Seq(u64), "s"
);
number!(
    /// A client session, named by the agreed order in which it was opened; 0 names none.
    SessionId(u64), "session "
);
number!(
    /// A slot of a session: at most one ordered request is outstanding in it.
    SlotIndex(u16), "slot "
);
number!(
    /// Monotonic local time in nanoseconds since an arbitrary start. For timers only.
    Mono(u64), "mono "
);
number!(
    /// Wall-clock or agreed time in nanoseconds since the epoch.
    Wall(u64), "wall "
);
number!(
    /// The position of a record in a replica's journal, counted from 1 in this incarnation.
    Lsn(u64), "lsn "
);

impl Seq {
    /// The sequence number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl View {
    /// The view after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Mono {
    /// This time, `nanos` later.
    #[must_use]
    pub const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}

/// Both clocks, read once by whoever drives the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timers.
    pub mono: Mono,
    /// For agreed time: proposed by a primary, checked by its backups.
    pub wall: Wall,
}

/// Whoever can hold a key: a replica or a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Principal {
    /// One of the n replicas.
    Replica(ReplicaId),
    /// A client named in the cluster file.
    Client(ClientId),
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(id) => fmt::Debug::fmt(id, f),
            Self::Client(id) => fmt::Debug::fmt(id, f),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(id) => write!(f, "replica {id}"),
            Self::Client(id) => write!(f, "client {id}"),
        }
    }
}
