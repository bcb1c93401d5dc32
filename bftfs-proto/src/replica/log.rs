//! The message log: per sequence number, what was proposed, voted and decided.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::{ACCEPTED_PER_SEQ_MAX, Cluster};
use crate::message::{Batch, SlotStatus, Vote};
use crate::types::{Lsn, Mono, ReplicaId, Seq, View};

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

    /// The digest that at least `enough` replicas voted for in `view`, leaving out `except`.
    pub(super) fn agreed(
        &self,
        view: View,
        enough: usize,
        except: Option<ReplicaId>,
    ) -> Option<Digest> {
        let of_view = self.0.values().filter(|(of, _)| *of == view);
        let mut digests = of_view.map(|(_, digest)| *digest);
        digests.find(|digest| self.count(view, digest, except) >= enough)
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
    /// What this replica is to accept on others' word, before it has the batch: a new view chose
    /// it, or w backups prepared it.
    pub(super) chosen: Option<(View, Digest)>,
    /// A pre-prepare whose bodies are not all here yet.
    pub(super) proposal: Option<Accepted>,
    /// The pre-prepare that this replica accepted last and made durable.
    pub(super) accepted: Option<Accepted>,
    /// What it accepted in earlier views, by digest in the latest view: with `accepted` its Q.
    pub(super) earlier: Vec<Accepted>,
    /// When its primary proposed it, and how long its oldest request had waited by then.
    pub(super) proposed: Option<(Mono, u64)>,
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
        let accepted = self.accepted.iter().chain(&self.earlier).chain(&self.proposal);
        let accepted = accepted.into_iter().find(|a| a.digest == *digest).map(|a| &a.batch);
        accepted.or_else(|| self.learned.iter().find(|batch| batch.digest(cluster) == *digest))
    }

    /// What is known to stand for this number in `view`, if anything.
    pub(super) fn known_in(&self, view: View) -> Option<Digest> {
        let accepted = self.accepted.iter().chain(&self.proposal);
        let known = accepted.map(|known| (known.view, known.digest)).chain(self.chosen);
        known.into_iter().find(|(of, _)| *of == view).map(|(_, digest)| digest)
    }

    /// Whether this replica accepted the batch in some view.
    pub(super) fn stands_by(&self, digest: &Digest) -> bool {
        self.accepted.iter().chain(&self.earlier).any(|accepted| accepted.digest == *digest)
    }

    /// Stands by a batch in a later view than any before. Of what was accepted earlier the latest
    /// are remembered, and always what was prepared.
    pub(super) fn accept(&mut self, accepted: Accepted) {
        self.earlier.extend(self.accepted.take());
        self.earlier.retain(|earlier| earlier.digest != accepted.digest);
        if self.earlier.len() >= ACCEPTED_PER_SEQ_MAX {
            let prepared = self.prepared.map(|(_, digest)| digest);
            let spare = self.earlier.iter().position(|e| Some(e.digest) != prepared);
            spare.map(|oldest| self.earlier.remove(oldest));
        }
        self.accepted = Some(accepted);
    }

    /// How far this number has come in `view`.
    pub(super) fn status(&self, view: View) -> SlotStatus {
        if self.decided.is_some() {
            SlotStatus::Committed
        } else if self.prepared.is_some_and(|(of, _)| of == view) {
            SlotStatus::Prepared
        } else if self.accepted.as_ref().is_some_and(|accepted| accepted.view == view) {
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

    /// Forgets what was proposed and not accepted: its view is over.
    pub(super) fn forget_proposals(&mut self) {
        for slot in self.slots.values_mut() {
            slot.proposal = None;
            slot.chosen = None;
            slot.proposed = None;
        }
    }

    /// The slots in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (Seq, &Slot)> {
        self.slots.iter().map(|(seq, slot)| (*seq, slot))
    }

    /// Moves the low watermark up; the slots below fall out of the log.
    pub(super) fn truncate(&mut self, low: Seq) {
        assert!(low >= self.low, "a stable checkpoint never falls back");
        self.low = low;
        self.slots = self.slots.split_off(&low.next());
    }
}
