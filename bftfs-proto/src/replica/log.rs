//! The message log: per sequence number, what was proposed, voted and decided.

use alloc::collections::BTreeMap;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::Cluster;
use crate::message::{Batch, SlotStatus, Vote};
use crate::types::{Lsn, ReplicaId, Seq, View};

/// The votes of one phase for one sequence number: one per replica, its latest.
#[derive(Debug, Default)]
pub(super) struct Votes(BTreeMap<ReplicaId, (View, Digest)>);

impl Votes {
    /// Stores a vote. A replica that votes twice in one view for different digests lies.
    pub(super) fn add(&mut self, from: ReplicaId, vote: &Vote) -> Result<(), Reject> {
        match self.0.get(&from) {
            Some((view, _)) if *view > vote.view => return Err(Reject::Stale),
            Some((view, digest)) if *view == vote.view => {
                return Err(if *digest == vote.digest { Reject::Stale } else { Reject::Conflict });
            }
            Some(_) | None => {}
        }
        self.0.insert(from, (vote.view, vote.digest));
        Ok(())
    }

    /// How many distinct replicas voted for `digest` in `view`, leaving out `except`.
    pub(super) fn count(&self, view: View, digest: &Digest, except: Option<ReplicaId>) -> usize {
        let matching = |(id, vote): &(&ReplicaId, &(View, Digest))| {
            **vote == (view, *digest) && Some(**id) != except
        };
        self.0.iter().filter(matching).count()
    }
}

/// A pre-prepare that this replica stands by.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) view: View,
    pub(super) digest: Digest,
    pub(super) batch: Batch,
}

/// All about one sequence number.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// A pre-prepare whose bodies are not all here yet.
    pub(super) proposal: Option<Accepted>,
    /// The pre-prepare that this replica accepted and made durable: its Q entry.
    pub(super) accepted: Option<Accepted>,
    pub(super) prepares: Votes,
    pub(super) commits: Votes,
    /// The prepared certificate that this replica made durable: its P entry.
    pub(super) prepared: Option<(View, Digest)>,
    /// The record that made it durable.
    pub(super) prepared_lsn: Lsn,
    /// What others claim was committed.
    pub(super) claims: BTreeMap<ReplicaId, Digest>,
    /// Committed locally, or claimed by w replicas.
    pub(super) decided: Option<Digest>,
    /// The decided batch, where it is not the accepted one.
    pub(super) learned: Option<Batch>,
}

impl Slot {
    /// prepared(v, s, d) of OSDI'99 section 4.2: the pre-prepare, and prepares of q-1 distinct
    /// backups that match it. The primary's own prepare would count for nothing.
    pub(super) fn is_prepared(&self, cluster: &Cluster) -> bool {
        self.accepted.as_ref().is_some_and(|a| {
            let primary = cluster.primary(a.view);
            self.prepares.count(a.view, &a.digest, Some(primary)) + 1 >= cluster.quorum()
        })
    }

    /// committed-local(v, s, d) of section 4.2: prepared, and q matching commits.
    pub(super) fn is_committed_local(&self, cluster: &Cluster) -> bool {
        self.prepared.as_ref().is_some_and(|(view, digest)| {
            self.commits.count(*view, digest, None) >= cluster.quorum()
        })
    }

    /// The batch of `digest`, if it is here.
    pub(super) fn batch(&self, digest: &Digest, cluster: &Digest) -> Option<&Batch> {
        let accepted = self.accepted.iter().find(|a| a.digest == *digest).map(|a| &a.batch);
        accepted.or_else(|| self.learned.iter().find(|batch| batch.digest(cluster) == *digest))
    }

    pub(super) fn status(&self) -> SlotStatus {
        if self.decided.is_some() {
            SlotStatus::Committed
        } else if self.prepared.is_some() {
            SlotStatus::Prepared
        } else if self.accepted.is_some() {
            SlotStatus::Accepted
        } else {
            SlotStatus::Empty
        }
    }
}

/// The slots between the watermarks.
#[derive(Debug)]
pub(super) struct Log {
    low: Seq,
    window: u64,
    slots: BTreeMap<Seq, Slot>,
}

impl Log {
    pub(super) fn new(low: Seq, window: u64) -> Self {
        Self { low, window, slots: BTreeMap::new() }
    }

    /// The low watermark h: the last stable checkpoint.
    pub(super) fn low(&self) -> Seq {
        self.low
    }

    /// The high watermark H = h + L.
    pub(super) fn high(&self) -> Seq {
        Seq(self.low.0 + self.window)
    }

    /// The slot of `seq`, made if need be.
    ///
    /// # Errors
    /// [`Reject::Watermark`] if `seq` is not in (h, H].
    pub(super) fn slot(&mut self, seq: Seq) -> Result<&mut Slot, Reject> {
        if seq <= self.low || seq > self.high() {
            return Err(Reject::Watermark);
        }
        Ok(self.slots.entry(seq).or_default())
    }

    /// The slot of a record of the own journal. It may lie above H while the own checkpoint is
    /// older than the stable one: the vote in it counts all the same.
    pub(super) fn restore(&mut self, seq: Seq) -> &mut Slot {
        self.slots.entry(seq).or_default()
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Slot> {
        self.slots.get(&seq)
    }

    pub(super) fn get_mut(&mut self, seq: Seq) -> Option<&mut Slot> {
        self.slots.get_mut(&seq)
    }

    /// The slots in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (Seq, &Slot)> {
        self.slots.iter().map(|(seq, slot)| (*seq, slot))
    }

    /// Moves the low watermark up and returns the slots that fell out of the log.
    pub(super) fn truncate(&mut self, low: Seq) -> BTreeMap<Seq, Slot> {
        assert!(low >= self.low, "a stable checkpoint never falls back");
        self.low = low;
        let kept = self.slots.split_off(&low.next());
        core::mem::replace(&mut self.slots, kept)
    }
}
