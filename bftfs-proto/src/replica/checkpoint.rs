//! Checkpoints, stability and the truncation of the log (OSDI'99 section 4.3).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::auth::Reject;
use crate::config::Cluster;
use crate::engine::{Output, Record, Snapshots, To};
use crate::message::{Checkpoint, Fetch, Message, StateRoot};
use crate::service::Service;
use crate::types::{ReplicaId, Seq};

use super::Replica;

/// Checkpoints of one other replica that are kept while they are not stable.
const CLAIMS_MAX: usize = 4;

/// What is known of checkpoints.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Signed claims not yet stable, by sender.
    claims: BTreeMap<ReplicaId, BTreeMap<Seq, Checkpoint>>,
    /// This replica's own, not yet stable, and the last stable one.
    own: BTreeMap<Seq, StateRoot>,
    /// The certificate of the last stable one: q matching claims.
    pub(super) stable: Vec<Checkpoint>,
    /// Own ones that are not stable: they go to disk when they are. Others may still have to fetch
    /// the last stable one, so nothing that may never become stable takes its place there.
    unstored: BTreeMap<Seq, Snapshots>,
    /// The last one that is on this replica's disk.
    durable: Seq,
    /// What the journal was last told it may drop.
    truncated: Seq,
    /// A stable checkpoint of others that this replica has not reached.
    pub(super) ahead: Vec<Checkpoint>,
    /// What was executed when that was last looked at.
    pub(super) ahead_since: Seq,
}

impl Checkpoints {
    pub(super) fn starting_at(root: Option<StateRoot>) -> Self {
        let mut checkpoints = Self::default();
        if let Some(root) = root {
            checkpoints.own.insert(root.seq, root);
            checkpoints.durable = root.seq;
            checkpoints.truncated = root.seq;
        }
        checkpoints
    }

    /// Takes a fetched checkpoint for the last stable one.
    pub(super) fn install(&mut self, root: StateRoot, certificate: Vec<Checkpoint>) {
        self.own.insert(root.seq, root);
        self.stable = certificate;
        if self.ahead.first().is_some_and(|claim| claim.seq <= root.seq) {
            self.ahead.clear();
        }
        self.unstored.clear();
        self.forget_up_to(root.seq);
    }

    /// Takes a checkpoint that was stable before a restart for the last stable one.
    pub(super) fn restore(&mut self, root: StateRoot, certificate: Vec<Checkpoint>) {
        self.own.insert(root.seq, root);
        self.stable = certificate;
    }

    /// Claims that are held.
    pub(super) fn claims(&self) -> usize {
        self.claims.values().map(BTreeMap::len).sum()
    }

    /// What this replica's own checkpoint at `seq` is made of.
    pub(super) fn own(&self, seq: Seq) -> Option<&StateRoot> {
        self.own.get(&seq)
    }

    /// A claim of this replica's own. After a restart there may be as many as the journal tells
    /// of, and the first of them have to become stable first.
    pub(super) fn add(&mut self, claim: Checkpoint) {
        self.claims.entry(claim.replica).or_default().insert(claim.seq, claim);
    }

    /// A claim of another: of each the latest few are kept.
    fn add_foreign(&mut self, claim: Checkpoint) {
        let claims = self.claims.entry(claim.replica).or_default();
        claims.insert(claim.seq, claim);
        while claims.len() > CLAIMS_MAX {
            claims.pop_first();
        }
    }

    /// q matching claims at `seq`, if there are.
    fn certificate(&self, seq: Seq, cluster: &Cluster) -> Option<Vec<Checkpoint>> {
        let claims: Vec<_> = self.claims.values().filter_map(|of| of.get(&seq)).collect();
        claims.iter().find_map(|claim| {
            let matching = claims.iter().filter(|other| other.state == claim.state);
            let matching: Vec<_> = matching.map(|claim| (*claim).clone()).collect();
            (matching.len() >= cluster.quorum()).then_some(matching)
        })
    }

    /// The latest claim of `replica`, while it is not stable.
    pub(super) fn claimed(&self, replica: ReplicaId) -> Option<Checkpoint> {
        let (_, claim) = self.claims.get(&replica)?.last_key_value()?;
        Some(claim.clone())
    }

    fn forget_up_to(&mut self, seq: Seq) {
        for claims in self.claims.values_mut() {
            *claims = claims.split_off(&seq.next());
        }
        self.own = self.own.split_off(&seq);
    }
}

/// Whether `certificate` proves its state: q distinct replicas' signatures over the same claim.
pub(super) fn is_certificate(certificate: &[Checkpoint], cluster: &Cluster) -> bool {
    let Some(first) = certificate.first() else { return false };
    let mut seen: Vec<ReplicaId> = certificate.iter().map(|claim| claim.replica).collect();
    seen.sort_unstable();
    seen.dedup();
    seen.len() == certificate.len()
        && seen.len() >= cluster.quorum()
        && certificate.iter().all(|claim| {
            let key = cluster.replicas.get(claim.replica.0 as usize);
            (claim.seq, claim.state) == (first.seq, first.state)
                && key.is_some_and(|key| claim.verify(cluster, key).is_ok())
        })
}

impl<S: Service> Replica<S> {
    /// Freezes the state after a batch and tells the others. It is written once it is stable.
    /// The journal holds all since the checkpoint before, so the claim need not wait for the state
    /// to be on the disk; but after a crash this replica has to know that it was there, for a new
    /// view may begin from the claims of a quorum.
    pub(super) fn take_checkpoint(&mut self) {
        let snapshots = self.state.seal();
        let (root, seq) = (snapshots.root, snapshots.root.seq);
        self.checkpoints.own.insert(seq, root);
        self.checkpoints.unstored.insert(seq, snapshots);
        let claim = self.claim_checkpoint(&root);
        self.append(Record::Claimed(claim.clone(), self.begun));
        self.send(To::Replicas, Message::Checkpoint(claim));
        if self.checkpoints.ahead.first().is_some_and(|claim| claim.seq == seq) {
            let certificate = core::mem::take(&mut self.checkpoints.ahead);
            self.on_stable(certificate);
        } else {
            self.try_stable(seq);
        }
    }

    /// Signs for a state of this replica's own.
    pub(super) fn claim_checkpoint(&mut self, root: &StateRoot) -> Checkpoint {
        let state = root.digest(&self.cluster.id);
        let claim = Checkpoint::sign(&self.cluster.id, &self.signer, self.me, root.seq, state);
        self.checkpoints.add(claim.clone());
        claim
    }

    /// Sends again what this replica signed for and the other has not seen become stable.
    pub(super) fn resend_claims(&mut self, to: ReplicaId, stable: Seq) {
        let own = self.checkpoints.claims.get(&self.me).into_iter().flatten();
        let claims: Vec<_> =
            own.filter(|(seq, _)| **seq > stable).map(|(_, c)| c.clone()).collect();
        claims.into_iter().for_each(|claim| self.send_to(to, Message::Checkpoint(claim)));
    }

    /// A checkpoint is stored iff its number is a multiple of K above the stable one, and its
    /// signature is the sender's.
    pub(super) fn on_checkpoint(&mut self, claim: Checkpoint) -> Result<(), Reject> {
        if claim.seq <= self.log.low() {
            return Err(Reject::Stale);
        }
        if !claim.seq.0.is_multiple_of(self.cluster.checkpoint_interval) {
            return Err(Reject::Watermark);
        }
        let key = self.cluster.replicas.get(claim.replica.0 as usize).ok_or(Reject::Role)?;
        claim.verify(&self.cluster, key)?;
        let seq = claim.seq;
        self.checkpoints.add_foreign(claim);
        self.try_stable(seq);
        Ok(())
    }

    fn try_stable(&mut self, seq: Seq) {
        if seq <= self.log.low() {
            return;
        }
        if let Some(certificate) = self.checkpoints.certificate(seq, &self.cluster) {
            self.on_stable(certificate);
        }
    }

    /// A certificate is proven. If this replica has the state, its log is cut there; if its log
    /// cannot bring it there, it fetches the state.
    pub(super) fn on_stable(&mut self, certificate: Vec<Checkpoint>) {
        let Some(first) = certificate.first() else { return };
        let (seq, state) = (first.seq, first.state);
        if seq <= self.log.low() {
            return;
        }
        let Some(own) = self.checkpoints.own(seq) else {
            self.learn_of_stable(certificate);
            return;
        };
        if own.digest(&self.cluster.id) != state {
            // A quorum holds another state: this replica is the faulty one.
            self.fall_silent();
            return;
        }
        let root = *own;
        self.append(Record::Stable(certificate.clone(), root));
        self.checkpoints.stable = certificate;
        self.checkpoints.forget_up_to(seq);
        self.store_checkpoints(seq);
        self.cut_log(seq);
        self.truncate_journal();
        self.views.relax();
        self.adopt_choice();
        self.propose();
    }

    /// Has own checkpoints written at leisure, each with what it added to the one before.
    fn store_checkpoints(&mut self, stable: Seq) {
        let later = self.checkpoints.unstored.split_off(&stable.next());
        let now = core::mem::replace(&mut self.checkpoints.unstored, later);
        self.outputs.extend(now.into_values().map(Box::new).map(Output::Checkpoint));
    }

    /// What this replica holds cannot be: it says nothing more.
    pub(super) fn fall_silent(&mut self) {
        self.diverged = true;
    }

    pub(super) fn cut_log(&mut self, seq: Seq) {
        self.log.truncate(seq);
        self.pool.release(seq);
        self.blocked.retain(|_, seqs| {
            *seqs = seqs.split_off(&seq.next());
            !seqs.is_empty()
        });
        let blocked = &self.blocked;
        self.wants.retain(|what, _| match what {
            Fetch::Request(digest) => blocked.contains_key(digest),
            Fetch::Batch(_) | Fetch::Stable(_) | Fetch::Block(_) => true,
        });
        self.next_seq = self.next_seq.max(seq.next());
    }

    pub(super) fn on_checkpoint_durable(&mut self, seq: Seq) {
        self.checkpoints.durable = self.checkpoints.durable.max(seq);
        self.truncate_journal();
    }

    /// The journal may drop what neither a restart nor a view change needs: records up to the
    /// lower of the stable checkpoint and the one on disk.
    fn truncate_journal(&mut self) {
        let seq = self.log.low().min(self.checkpoints.durable);
        if seq <= self.checkpoints.truncated {
            return;
        }
        self.checkpoints.truncated = seq;
        // These have no number of their own: write them again before their segment goes.
        self.append(Record::View(self.view));
        if let Some(new_view) = self.views.new_view.clone() {
            self.append(Record::NewView(new_view));
        }
        if let Some(claim) = self.checkpoints.claimed(self.me) {
            self.append(Record::Claimed(claim, self.begun));
        }
        if let Some(root) = self.checkpoints.own(self.log.low()).copied() {
            self.append(Record::Stable(self.checkpoints.stable.clone(), root));
        }
        self.outputs.push_back(Output::Truncate(seq));
    }
}
