//! The three phases: pre-prepare, prepare, commit (OSDI'99 section 4.2).

use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::{TIME_BOUND_NANOS, TIME_LAG_NANOS};
use crate::engine::{Record, To};
use crate::message::{Batch, Fetch, Message, PrePrepare, Vote};
use crate::service::Service;
use crate::types::{ReplicaId, Seq, Wall};

use super::log::Accepted;
use super::{Fault, Replica};

impl<S: Service> Replica<S> {
    /// A backup accepts a pre-prepare iff
    /// - it comes from the primary of the view that has begun here;
    /// - `seq` is between the watermarks and not decided already;
    /// - no other digest was accepted for this view and number;
    /// - the proposed time is near this replica's clock;
    /// - every request is here, and is its client's.
    pub(super) fn on_pre_prepare(
        &mut self,
        from: ReplicaId,
        pre_prepare: PrePrepare,
    ) -> Result<(), Reject> {
        let PrePrepare { view, seq, batch } = pre_prepare;
        if view != self.view || !self.views.active {
            return Err(Reject::View);
        }
        if from != self.cluster.primary(view) && !self.broken(Fault::AnyPrimary) {
            return Err(Reject::Role);
        }
        let digest = batch.digest(&self.cluster.id);
        let slot = self.log.slot(seq)?;
        if let Some(known) = slot.known_in(view) {
            return Err(if known == digest { Reject::Stale } else { Reject::Conflict });
        }
        if slot.decided.is_some() {
            return Err(Reject::Stale);
        }
        if let Err(reject) = self.check_time(batch.time) {
            self.blame_for_time();
            return Err(reject);
        }
        let proposed = (self.now.mono, self.waited(&batch.requests));
        self.observe_service(&batch.requests);
        if let Some(slot) = self.log.get_mut(seq) {
            slot.proposed = Some(proposed);
            slot.proposal = Some(Accepted { view, digest, batch });
        }
        self.try_accept(seq);
        Ok(())
    }

    /// A time ahead of this replica's clock would let a primary run agreed time forward. One that
    /// lags is harmless to order (agreed time never falls), so its bound is wide, and waived for
    /// a while after a start: the batches of before an outage are old and still to be voted on.
    fn check_time(&self, proposed: Wall) -> Result<(), Reject> {
        let wall = self.now.wall.0;
        let restarted = self.now.mono.0.saturating_sub(self.started.0) < TIME_LAG_NANOS;
        let ahead = proposed.0 > wall.saturating_add(TIME_BOUND_NANOS);
        let behind = proposed.0 < wall.saturating_sub(TIME_LAG_NANOS) && !restarted;
        if (ahead || behind) && !self.broken(Fault::AnyTime) { Err(Reject::Time) } else { Ok(()) }
    }

    /// Accepts the proposal of `seq` once all of its bodies are here. Whoever does not know what it
    /// promised keeps the proposal for when it is decided.
    pub(super) fn try_accept(&mut self, seq: Seq) {
        if !self.may_vote() || seq <= self.settled {
            return;
        }
        let Some(proposal) = self.log.get(seq).and_then(|slot| slot.proposal.as_ref()) else {
            return;
        };
        let missing = self.missing_of(&proposal.batch);
        if !missing.is_empty() {
            self.block(seq, &missing);
            return;
        }
        let Some(proposal) = self.log.get_mut(seq).and_then(|slot| slot.proposal.take()) else {
            return;
        };
        if proposal.view != self.view || !self.views.active {
            return;
        }
        let vote = Vote { view: proposal.view, seq, digest: proposal.digest };
        self.accept(seq, proposal.batch);
        self.send(To::Replicas, Message::Prepare(vote));
        self.try_prepare(seq);
    }

    /// Stands by a batch, for ever: the record keeps the vote and the bodies across a crash.
    pub(super) fn accept(&mut self, seq: Seq, batch: Batch) {
        assert!(seq > self.settled, "votes up to there are forgotten");
        let (view, me) = (self.view, self.me);
        let digest = batch.digest(&self.cluster.id);
        let vote = Vote { view, seq, digest };
        let body = |digest| self.pool.get(digest).map(|body| body.request.clone());
        let requests: Vec<_> = batch.requests.iter().filter_map(body).collect();
        assert!(requests.len() == batch.requests.len(), "a batch is accepted with its bodies");
        batch.requests.iter().for_each(|digest| self.pool.order(digest, seq));
        if seq <= self.state.executed() {
            batch.requests.iter().for_each(|digest| self.pool.executed(digest));
        }
        // A record of an earlier view holds the bodies already.
        let known = self.log.get(seq).is_some_and(|slot| slot.stands_by(&digest));
        self.append(if known {
            Record::Reaccepted(vote)
        } else {
            Record::Accepted { view, seq, batch: batch.clone(), requests }
        });
        let backup = !self.is_primary();
        if let Ok(slot) = self.log.slot(seq) {
            let earlier = slot.accepted.as_ref().map(|accepted| accepted.view);
            assert!(earlier.is_none_or(|earlier| earlier < view), "a vote is never revised");
            slot.chosen = None;
            slot.accept(Accepted { view, digest, batch });
            if backup {
                let own = slot.prepares.add(me, &vote);
                assert!(own.is_ok(), "one prepare for a view and number");
            }
        }
    }

    /// A prepare is stored iff it is for this view or a later one, between the watermarks, from a
    /// backup, and the sender's only one for its view.
    pub(super) fn on_prepare(&mut self, from: ReplicaId, vote: &Vote) -> Result<(), Reject> {
        if vote.view < self.view {
            return Err(Reject::View);
        }
        if from == self.cluster.primary(vote.view) {
            return Err(Reject::Role);
        }
        let vote = &self.heard(*vote);
        self.log.slot(vote.seq)?.prepares.add(from, vote)?;
        self.follow_backups(vote.seq);
        self.try_prepare(vote.seq);
        Ok(())
    }

    /// A vote as it is counted: as it is.
    fn heard(&self, vote: Vote) -> Vote {
        let accepted = self.log.get(vote.seq).and_then(|slot| slot.accepted.as_ref());
        match accepted.filter(|_| self.broken(Fault::AnyDigest)) {
            Some(accepted) => Vote { digest: accepted.digest, ..vote },
            None => vote,
        }
    }

    /// w backups prepared a batch that this one has no pre-prepare of: one of them is correct, so
    /// the primary proposed it, and it may be accepted on their word.
    fn follow_backups(&mut self, seq: Seq) {
        let (view, primary) = (self.view, self.cluster.primary(self.view));
        let Some(slot) = self.log.get_mut(seq).filter(|_| self.views.active) else { return };
        if slot.decided.is_some() || slot.known_in(view).is_some() || self.me == primary {
            return;
        }
        if let Some(digest) = slot.prepares.agreed(view, self.cluster.weak(), Some(primary)) {
            slot.chosen = Some((view, digest));
            self.pursue(seq);
        }
    }

    /// When prepared, makes that durable and votes to commit.
    pub(super) fn try_prepare(&mut self, seq: Seq) {
        let Some(slot) = self.log.get(seq) else { return };
        let Some(accepted) = &slot.accepted else { return };
        let (view, digest) = (accepted.view, accepted.digest);
        if view != self.view || !self.views.active || slot.prepared == Some((view, digest)) {
            return;
        }
        if !slot.is_prepared(&self.cluster) && !self.broken(Fault::NoCertificate) {
            return;
        }
        if !self.broken(Fault::NoPreparedRecord) {
            self.append(Record::Prepared { view, seq, digest });
        }
        let (me, lsn) = (self.me, self.appended);
        let vote = Vote { view, seq, digest };
        if let Some(slot) = self.log.get_mut(seq) {
            slot.prepared = Some((view, digest));
            slot.prepared_lsn = lsn;
            let own = slot.commits.add(me, &vote);
            assert!(own.is_ok(), "one commit for a view and number");
        }
        self.send(To::Replicas, Message::Commit(vote));
        self.try_commit(seq);
    }

    /// A commit is stored iff it is for this view or a later one, between the watermarks, and the
    /// sender's only one for its view.
    pub(super) fn on_commit(&mut self, from: ReplicaId, vote: &Vote) -> Result<(), Reject> {
        if vote.view < self.view {
            return Err(Reject::View);
        }
        let vote = &self.heard(*vote);
        self.log.slot(vote.seq)?.commits.add(from, vote)?;
        self.try_commit(vote.seq);
        Ok(())
    }

    /// When committed locally, the batch is decided: executes all that is next.
    pub(super) fn try_commit(&mut self, seq: Seq) {
        let Some(slot) = self.log.get(seq) else { return };
        let committed = slot.is_committed_local(&self.cluster) || self.broken(Fault::NoCommits);
        if slot.decided.is_some() || !committed {
            return;
        }
        if let Some((_, digest)) = slot.prepared {
            self.decide(seq, digest);
        }
    }

    /// Takes `digest` as the decision for `seq`.
    pub(super) fn decide(&mut self, seq: Seq, digest: Digest) {
        let Some(slot) = self.log.get_mut(seq) else { return };
        let before = slot.decided.replace(digest);
        assert!(before.is_none_or(|before| before == digest), "one decision for a number");
        self.execute_ready();
    }

    /// The requests of `batch` whose bodies are not here.
    pub(super) fn missing_of(&self, batch: &Batch) -> Vec<Digest> {
        let absent = |digest: &&Digest| self.pool.get(digest).is_none();
        batch.requests.iter().filter(absent).copied().collect()
    }

    /// `seq` waits for these bodies, which are asked for if they do not come by themselves.
    pub(super) fn block(&mut self, seq: Seq, missing: &[Digest]) {
        for digest in missing {
            self.blocked.entry(*digest).or_default().insert(seq);
            self.want(Fetch::Request(*digest));
        }
    }

    /// A body came: slots that waited for it go on.
    pub(super) fn unblock(&mut self, digest: &Digest) {
        self.wants.remove(&Fetch::Request(*digest));
        let Some(seqs) = self.blocked.remove(digest) else { return };
        for seq in seqs {
            self.try_accept(seq);
            self.execute_ready();
        }
        self.gather();
    }
}
