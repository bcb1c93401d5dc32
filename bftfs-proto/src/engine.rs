//! The shape that replica and client share: inputs in, outputs out, and nothing said before it is
//! durable.
//!
//! A driver does the same in every world: it calls `handle` with an input, drains the outputs into
//! an [`Outbox`], writes the records to the journal, and sends what the outbox releases.
//!
//! **The durability contract**: no message leaves before every record that it names in `after` is
//! durable; no checkpoint is written before the records of what it holds are; and the journal
//! drops records only when told to, and not before those are durable that stand for them.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bftfs_state::{Block, Digest, Snapshot};
use serde::{Deserialize, Serialize};

use crate::message::{Batch, Checkpoint, Message, NewView, Request, StateRoot, Vote};
use crate::replica::Recovery;
use crate::types::{Lsn, Principal, Seq, View};

/// Who is to get a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// One principal.
    One(Principal),
    /// Every other replica.
    Replicas,
}

/// What a replica asks of the world.
#[derive(Debug)]
pub enum Output {
    /// Write this record to the journal, in order. Its number is one more than the last one's.
    Append(Record),
    /// Send this once the journal is durable up to `after`.
    Send {
        /// To whom.
        to: To,
        /// What.
        message: Message,
        /// The last record that this message depends on.
        after: Lsn,
    },
    /// Write this state to disk, at leisure; then say [`Input::CheckpointDurable`].
    Checkpoint(Box<Snapshots>),
    /// Records about sequence numbers up to this one that were appended before now may go.
    Truncate(Seq),
    /// Send this block of a stored checkpoint as [`crate::message::Data::Block`], if it is there.
    Serve(Principal, Digest),
}

/// What can happen to a replica.
#[derive(Debug)]
pub enum Input {
    /// A checked message arrived.
    Message(Principal, crate::auth::Verified<Message>),
    /// The time that `poll_timeout` asked for has come.
    Timeout,
    /// The checkpoint of this number is on disk.
    CheckpointDurable(Seq),
    /// A client was added to the cluster file, or its key changed.
    Client(crate::types::ClientId, crate::auth::PublicKey),
    /// A block of the state was found to be damaged, by whoever looks through the store.
    Damaged(Digest),
    /// The operator wants another primary. When those of w replicas do, the view is changed.
    Rotate,
}

/// What a replica must not forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Pre-prepared: sent as PRE-PREPARE or PREPARE. Holds the bodies, so that the vote for them
    /// can be honoured after a crash.
    Accepted {
        /// The view.
        view: View,
        /// The sequence number.
        seq: Seq,
        /// The batch.
        batch: Batch,
        /// Its requests, in order.
        requests: Vec<Request>,
    },
    /// Prepared: sent as COMMIT.
    Prepared {
        /// The view.
        view: View,
        /// The sequence number.
        seq: Seq,
        /// The batch's digest.
        digest: Digest,
    },
    /// Executed on others' word (w claims), without a COMMIT of its own.
    Learned {
        /// The sequence number.
        seq: Seq,
        /// The batch.
        batch: Batch,
        /// Its requests, in order.
        requests: Vec<Request>,
    },
    /// Executed by itself from the state at the number up to the checkpoint, and signed for that:
    /// what was prepared or learned between them was decided. What lies below was not executed here,
    /// or not since the last start.
    Claimed(Checkpoint, Seq),
    /// q matching checkpoints, and what their state is made of: the log up to them may go.
    Stable(Vec<Checkpoint>, StateRoot),
    /// How far a replica that lost its disk has come on its way back.
    Recovery(Recovery),
    /// The view that this replica is in or has promised to move to.
    View(View),
    /// Accepted again in a later view: batch and bodies are in an earlier record of this number.
    Reaccepted(Vote),
    /// The view that began for this replica, and why.
    NewView(NewView),
}

impl Record {
    /// The sequence number below which this record is no longer needed; `None` for those that
    /// only a later one of their kind replaces.
    #[must_use]
    pub fn seq(&self) -> Option<Seq> {
        match self {
            Self::Accepted { seq, .. } | Self::Prepared { seq, .. } | Self::Learned { seq, .. } => {
                Some(*seq)
            }
            Self::Reaccepted(vote) => Some(vote.seq),
            Self::Claimed(..)
            | Self::Stable(..)
            | Self::Recovery(_)
            | Self::View(_)
            | Self::NewView(_) => None,
        }
    }
}

/// A checkpoint on its way to disk.
#[derive(Debug)]
pub struct Snapshots {
    /// What its digest is made of.
    pub root: StateRoot,
    /// The session table and the service's tree, to rewrite a store from.
    pub trees: [Snapshot; 2],
    /// Blocks that the checkpoint before it did not have.
    pub added: Vec<Block>,
    /// Blocks that it no longer refers to, as often as they were added.
    pub freed: Vec<Digest>,
    /// The state was fetched, not executed: what the store counted counts for nothing, and the
    /// references of the trees are to be counted anew.
    pub rewrite: bool,
}

/// An output whose time has come.
#[derive(Debug)]
pub enum Release {
    /// Send this.
    Send(To, Message),
    /// Write this checkpoint at leisure.
    Checkpoint(Box<Snapshots>),
    /// Have the journal drop records up to this number.
    Truncate(Seq),
    /// Send this block of a stored checkpoint to this replica.
    Serve(Principal, Digest),
}

/// Holds everything back until the records that it depends on are durable: what is said, what is
/// stored, and what is forgotten.
#[derive(Debug, Default)]
pub struct Outbox {
    records: Vec<Record>,
    waiting: VecDeque<(Lsn, Release)>,
    appended: Lsn,
    durable: Lsn,
}

impl Outbox {
    /// Takes an output.
    pub fn push(&mut self, output: Output) {
        let appended = self.appended;
        let waiting = match output {
            Output::Append(record) => {
                self.appended.0 += 1;
                self.records.push(record);
                return;
            }
            Output::Send { to, message, after } => (after, Release::Send(to, message)),
            // A restart must find in the journal how the state of a checkpoint came about, and
            // what is to stay of what is dropped.
            Output::Checkpoint(snapshots) => (appended, Release::Checkpoint(snapshots)),
            Output::Truncate(seq) => (appended, Release::Truncate(seq)),
            Output::Serve(to, digest) => (Lsn(0), Release::Serve(to, digest)),
        };
        self.waiting.push_back(waiting);
    }

    /// The records to write next, and the number of the last of them. Empty if there are none.
    pub fn take_records(&mut self) -> (Vec<Record>, Lsn) {
        (core::mem::take(&mut self.records), self.appended)
    }

    /// The number of the last record pushed.
    #[must_use]
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// The number of the last record that is on disk.
    #[must_use]
    pub fn durable_to(&self) -> Lsn {
        self.durable
    }

    /// All records up to `lsn` are on disk.
    pub fn durable(&mut self, lsn: Lsn) {
        assert!(self.durable <= lsn && lsn <= self.appended, "the journal is durable in order");
        self.durable = lsn;
    }

    /// What may be done now, in the order it was pushed.
    pub fn release(&mut self) -> Vec<Release> {
        let mut released = Vec::new();
        let mut kept = VecDeque::new();
        for (after, what) in self.waiting.drain(..) {
            if after <= self.durable {
                released.push(what);
            } else {
                kept.push_back((after, what));
            }
        }
        self.waiting = kept;
        released
    }
}
