//! Votes: one digest each, on the disk first, between the watermarks, never below a promise.

use std::collections::BTreeMap;

use bftfs_proto::Digest;
use bftfs_proto::config::Cluster;
use bftfs_proto::message::{Message, ViewChange};
use bftfs_proto::types::{ReplicaId, Seq, View};

use crate::disk::{Disk, DurableVote};

use super::{History, Violation};

/// The phase of PRE-PREPARE and PREPARE in a [`DurableVote`].
const ACCEPTED: u8 = 0;
/// The phase of COMMIT.
const PREPARED: u8 = 1;

/// Every vote ever said.
#[derive(Debug)]
pub(super) struct Votes {
    cluster: Digest,
    window: u64,
    said: BTreeMap<(ReplicaId, u8, View, Seq), Digest>,
    /// What correct replicas found prepared, whoever they are.
    prepared: BTreeMap<(View, Seq), Digest>,
    /// The highest view in which each replica voted, or to which it promised to move.
    promised: BTreeMap<ReplicaId, View>,
    /// The highest stable checkpoint of each replica.
    stable: BTreeMap<ReplicaId, Seq>,
}

impl Votes {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.id,
            window: cluster.window,
            said: BTreeMap::new(),
            prepared: BTreeMap::new(),
            promised: BTreeMap::new(),
            stable: BTreeMap::new(),
        }
    }
}

impl History {
    /// Judges what a correct replica says, when it leaves.
    ///
    /// # Errors
    /// The violation.
    pub fn said(&mut self, id: ReplicaId, message: &Message, disk: &Disk) -> Result<(), Violation> {
        if let Message::ViewChange(change) = message {
            self.promise(id, change, disk)?;
            return self.testimony(id, change);
        }
        let Some(vote) = vote_in(&self.votes.cluster, message) else { return Ok(()) };
        self.one_vote(id, vote)?;
        self.one_certificate(id, vote)?;
        self.within_bounds(id, vote)?;
        let (phase, view, seq, digest) = vote;
        if !disk.votes.contains(&vote) {
            return Err(format!("I9: {id:?} said {message:?} before it was durable"));
        }
        if phase == PREPARED { self.prepared_by(id, view, seq, digest) } else { Ok(()) }
    }

    /// I2 (section 4.2): no replica votes for two digests under one view and number, across
    /// restarts.
    fn one_vote(&mut self, id: ReplicaId, vote: DurableVote) -> Result<(), Violation> {
        let (phase, view, seq, digest) = vote;
        let first = *self.votes.said.entry((id, phase, view, seq)).or_insert(digest);
        if first == digest {
            Ok(())
        } else {
            Err(format!("I2: {id:?} said {first:?} and {digest:?} for {view:?} {seq:?}"))
        }
    }

    /// I3 (section 4.2): no two digests prepare at correct replicas under one view and number.
    fn one_certificate(&mut self, id: ReplicaId, vote: DurableVote) -> Result<(), Violation> {
        let (phase, view, seq, digest) = vote;
        if phase != PREPARED {
            return Ok(());
        }
        let first = *self.votes.prepared.entry((view, seq)).or_insert(digest);
        if first == digest {
            Ok(())
        } else {
            Err(format!("I3: {id:?} prepared {digest:?} for {view:?} {seq:?}, another {first:?}"))
        }
    }

    /// I8 (sections 4.3, 4.4): no vote above the high watermark, none in a view that was left.
    fn within_bounds(&mut self, id: ReplicaId, vote: DurableVote) -> Result<(), Violation> {
        let (_, view, seq, _) = vote;
        let stable = self.votes.stable.get(&id).copied().unwrap_or_default();
        let promised = self.votes.promised.entry(id).or_default();
        if seq.0 > stable.0 + self.votes.window {
            return Err(format!("I8: {id:?} voted for {seq:?}, its stable one is {stable:?}"));
        }
        if view < *promised {
            return Err(format!("I8: {id:?} voted in {view:?} after its promise of {promised:?}"));
        }
        *promised = view;
        Ok(())
    }

    /// I8 (section 4.4): a replica is never again below a view in which it voted or that it
    /// promised to move to, not even after a restart.
    ///
    /// # Errors
    /// The violation.
    pub fn progress(&mut self, id: ReplicaId, view: View, stable: Seq) -> Result<(), Violation> {
        let highest = self.votes.stable.entry(id).or_default();
        *highest = stable.max(*highest);
        match self.votes.promised.get(&id) {
            Some(promised) if *promised > view => {
                Err(format!("I8: {id:?} promised {promised:?} and is in {view:?}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// How far a stable checkpoint is below the highest that its replica ever had.
    pub(super) fn behind(&self, id: ReplicaId, stable: Seq) -> usize {
        let highest = self.votes.stable.get(&id).copied().unwrap_or_default();
        usize::try_from(highest.0.saturating_sub(stable.0)).unwrap_or(usize::MAX)
    }

    /// I9 (durability): what a view-change promises is on the disk.
    fn promise(
        &mut self,
        id: ReplicaId,
        change: &ViewChange,
        disk: &Disk,
    ) -> Result<(), Violation> {
        if change.view > disk.promised {
            return Err(format!("I9: {id:?} promised {:?} before it was durable", change.view));
        }
        let promised = self.votes.promised.entry(id).or_default();
        *promised = change.view.max(*promised);
        Ok(())
    }

    /// I9 (section 4.4): a view-change owns up to every COMMIT that its sender ever said.
    fn testimony(&self, id: ReplicaId, change: &ViewChange) -> Result<(), Violation> {
        let first = (id, PREPARED, View(0), Seq(0));
        for ((_, _, view, seq), digest) in
            self.votes.said.range(first..(id, PREPARED, change.view, Seq(0)))
        {
            let owned = change.prepared.iter().any(|p| {
                p.seq == *seq && (p.view > *view || (p.view == *view && p.digest == *digest))
            });
            if *seq > change.stable && !owned {
                return Err(format!("I9: {id:?} hides its COMMIT of {view:?} {seq:?}: {change:?}"));
            }
        }
        Ok(())
    }
}

/// The vote that a message casts; a pre-prepare is its primary's prepare.
fn vote_in(cluster: &Digest, message: &Message) -> Option<DurableVote> {
    match message {
        Message::PrePrepare(p) => Some((ACCEPTED, p.view, p.seq, p.batch.digest(cluster))),
        Message::Prepare(vote) => Some((ACCEPTED, vote.view, vote.seq, vote.digest)),
        Message::Commit(vote) => Some((PREPARED, vote.view, vote.seq, vote.digest)),
        _ => None,
    }
}
