//! What must hold after every step, one function a property. The numbers are those of
//! `docs/protocol.md`. Each returns what it found wrong.

use std::collections::BTreeMap;

use bftfs_proto::Digest;
use bftfs_proto::message::Message;
use bftfs_proto::types::{ReplicaId, Seq, View};

use crate::disk::{Disk, DurableVote};

/// What a checker found.
pub type Violation = String;

/// What all correct replicas were ever seen to do.
#[derive(Debug, Default)]
pub struct History {
    decided: BTreeMap<Seq, Digest>,
    states: BTreeMap<Seq, Digest>,
    votes: BTreeMap<(ReplicaId, u8, View, Seq), Digest>,
    views: BTreeMap<ReplicaId, View>,
}

impl History {
    /// I1 (agreement, OSDI'99 section 4.5.1): no two replicas decide differently for one number.
    ///
    /// # Errors
    /// The violation.
    pub fn agreement(&mut self, id: ReplicaId, seq: Seq, digest: Digest) -> Result<(), Violation> {
        let first = *self.decided.entry(seq).or_insert(digest);
        let same = first == digest;
        if same {
            Ok(())
        } else {
            Err(format!("I1: {id:?} decided {digest:?} for {seq:?}, another {first:?}"))
        }
    }

    /// I7 (section 4.3): equal numbers executed, equal states; and the state's digest is that of
    /// its content.
    ///
    /// # Errors
    /// The violation.
    pub fn equal_states(
        &mut self,
        id: ReplicaId,
        seq: Seq,
        digest: Digest,
    ) -> Result<(), Violation> {
        let first = *self.states.entry(seq).or_insert(digest);
        let same = first == digest;
        if same {
            Ok(())
        } else {
            Err(format!("I7: {id:?} has state {digest:?} at {seq:?}, another {first:?}"))
        }
    }

    /// I2 (section 4.2): no replica votes twice for different digests under one view and number,
    /// across restarts; I9 (durability): no vote leaves that is not on the voter's disk.
    ///
    /// # Errors
    /// The violation.
    pub fn said(
        &mut self,
        cluster: &Digest,
        id: ReplicaId,
        message: &Message,
        disk: &Disk,
    ) -> Result<(), Violation> {
        let Some((phase, view, seq, digest)) = vote_in(cluster, message) else { return Ok(()) };
        let first = *self.votes.entry((id, phase, view, seq)).or_insert(digest);
        if first != digest {
            return Err(format!("I2: {id:?} said {first:?} and {digest:?} for {view:?} {seq:?}"));
        }
        if disk.votes.contains(&(phase, view, seq, digest)) {
            Ok(())
        } else {
            Err(format!("I9: {id:?} said {message:?} before it was durable"))
        }
    }

    /// I8 (section 4.4): a replica's view never falls, across restarts.
    ///
    /// # Errors
    /// The violation.
    pub fn view(&mut self, id: ReplicaId, view: View) -> Result<(), Violation> {
        let last = self.views.insert(id, view).unwrap_or(view);
        if view >= last {
            Ok(())
        } else {
            Err(format!("I8: {id:?} fell from {last:?} to {view:?}"))
        }
    }

    /// The last number that any replica executed.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.states.last_key_value().map_or(Seq(0), |(seq, _)| *seq)
    }
}

/// The vote that a message casts; a pre-prepare is its primary's prepare.
fn vote_in(cluster: &Digest, message: &Message) -> Option<DurableVote> {
    match message {
        Message::PrePrepare(p) => Some((0, p.view, p.seq, p.batch.digest(cluster))),
        Message::Prepare(vote) => Some((0, vote.view, vote.seq, vote.digest)),
        Message::Commit(vote) => Some((1, vote.view, vote.seq, vote.digest)),
        _ => None,
    }
}
